"""An Android device without Python: what it is, and Google's benchmark_model on it."""

from __future__ import annotations

import contextlib
import math
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgekd.devices import machine
from edgekd.devices.adb import AdbLink
from edgekd.devices.events import printable
from edgekd.devices.known import Device
from edgekd.errors import MeasurementError

_ASK_S, _MOST_BYTES = 60.0, 2**20
_FLAGS: Mapping[str, tuple[str, ...]] = {
    "cpu": (),
    "xnnpack": ("--use_xnnpack=true",),
    "gpu": ("--use_gpu=true",),
    "gpu-fp32": ("--use_gpu=true", "--gpu_precision_loss_allowed=false"),
}
DELEGATES = tuple(_FLAGS)
_NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]\d+)?)"
_RUNS = re.compile(
    rf"count=(\d+) first={_NUMBER} curr={_NUMBER} min={_NUMBER} max={_NUMBER} avg={_NUMBER} std={_NUMBER}"
)
_SUMMARY = re.compile(
    rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, "
    rf"Warmup \(avg\): {_NUMBER}, Inference \(avg\): {_NUMBER}"
)
_PEAK = re.compile(rf"Overall peak memory footprint \(MB\) via periodic monitoring: {_NUMBER}")
_APPLIED = re.compile(
    r"Explicitly applied (\w+) delegate, and the model graph will be (completely|partially) executed"
)
_REPLACED = re.compile(r"Replacing (\d+) out of (\d+) node\(s\) with delegate \(TfLiteXNNPackDelegate\)")
_AFFINITY = re.compile(r"affinity mask: ([0-9a-f]{1,64})\s*$")
_CREATED = "Created TensorFlow Lite XNNPACK delegate"


@dataclass(frozen=True)
class NativeTimes:
    """What benchmark_model says: of single runs it tells nothing, so there are no percentiles of ours.

    Attributes:
        num_runs: that the average is of, in one process.
        init_ms: loading the file.
        first_ms: the first inference.
        mean_ms: average of the runs.
        min_ms: fastest.
        max_ms: slowest.
        std_ms: standard deviation.
        peak_memory_bytes: of the process, as it saw it now and then; None where its version does not tell.
        backend: what ran the graph: "gpu", "gpu-fp32", or in its words "xnnpack", with "+builtin" where not
            all of it.
    """

    num_runs: int
    init_ms: float
    first_ms: float
    mean_ms: float
    min_ms: float
    max_ms: float
    std_ms: float
    peak_memory_bytes: int | None
    backend: str


def command(
    program: str,
    graph: str,
    *,
    delegate: str,
    num_threads: int,
    warmup_runs: int,
    num_runs: int,
    min_seconds: float,
    cores: Sequence[int] = (),
) -> list[str]:
    """The command on the device; `program` and `graph` are paths there, `delegate` is one of DELEGATES."""
    return [
        *_kept_to(cores),
        program,
        f"--graph={graph}",
        f"--num_threads={num_threads}",
        f"--warmup_runs={warmup_runs}",
        f"--num_runs={num_runs}",
        f"--min_secs={min_seconds:g}",
        "--report_peak_memory_footprint=true",
        *_FLAGS[delegate],
    ]


def _kept_to(cores: Sequence[int]) -> list[str]:
    # Toybox's, which Android has, takes a mask in hexadecimal digits and no list of cores.
    return ["taskset", f"{_mask(cores):x}"] if cores else []


def _mask(cores: Sequence[int]) -> int:
    return sum(1 << core for core in set(cores))


def parse(text: str, delegate: str) -> NativeTimes:
    """The times in what benchmark_model printed, which must be those of the delegate that was asked for.

    Raises:
        MeasurementError: something is missing or contradicts itself; or the delegate did not take the graph.
    """
    runs, summary = _RUNS.findall(text), _SUMMARY.search(text)
    if not runs or summary is None:
        raise MeasurementError(f"benchmark_model told no times: {_last(text)}")
    count, _, _, least, most, mean, std = (float(value) for value in runs[-1])
    init, first, _, average = (float(value) for value in summary.groups())
    sound = all(math.isfinite(v) for v in (count, least, most, mean, std, init, first))
    # Averages are printed with six digits, the others as whole microseconds.
    if not sound or count < 2 or not 0 < least <= mean * (1 + 1e-5) <= most * (1 + 2e-5) or mean != average:
        raise MeasurementError(f"benchmark_model told times that are none: {runs[-1]}, {summary[0]}")
    peak = _PEAK.search(text)
    return NativeTimes(
        num_runs=int(count),
        init_ms=init / 1000,
        first_ms=first / 1000,
        mean_ms=mean / 1000,
        min_ms=least / 1000,
        max_ms=most / 1000,
        std_ms=std / 1000,
        peak_memory_bytes=None if peak is None else round(float(peak[1]) * 2**20),
        backend=_backend(text, delegate),
    )


def _backend(text: str, delegate: str) -> str:
    applied = {name.lower(): share for name, share in _APPLIED.findall(text)}
    if delegate != "cpu":
        name = delegate.removesuffix("-fp32")
        if name not in applied:
            raise MeasurementError(
                f"benchmark_model does not say that the {name} delegate took the graph: {_last(text)}",
                hint='delegate = "cpu" runs it all the same',
            )
        whole = applied[name] == "completely"
        if name == "gpu" and not whole:
            raise MeasurementError(
                "benchmark_model took only a part of the graph to the GPU",
                hint='delegate = "cpu" or "xnnpack" runs all of it on the processor',
            )
        return delegate if whole else f"{delegate}+builtin"
    if replaced := _REPLACED.search(text):
        return "xnnpack" if replaced[1] == replaced[2] else "xnnpack+builtin"
    return "xnnpack, of how much it does not say" if _CREATED in text else "builtin"


def machine_of(device: Device) -> dict[str, Any]:
    """What the device is, as `machine` events tell it of boards with Python, by `getprop` and /proc.

    Raises:
        MeasurementError: it cannot be reached, or does not say.
    """
    link = AdbLink(device)
    isa = _ask(link, ["uname", "-m"]).strip()
    model = _ask(link, ["getprop", "ro.product.model"]).strip()
    release = _ask(link, ["getprop", "ro.build.version.release"]).strip()
    cpuinfo = _ask(link, ["cat", "/proc/cpuinfo"])
    with TemporaryDirectory() as place:
        (Path(place) / "cpuinfo").write_text(cpuinfo, encoding="utf-8")
        features = machine.features(Path(place))
    cores = len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE))
    board = f"Android {model}" if model else ""
    found = {
        "cpu": board or isa,
        "isa": isa,
        "board": board,
        "features": [name for name in machine.TELLING if name in features],
        "all_features": sorted(features),
        "denied_features": [],
        "cores": cores,
        "usable_cores": cores,
        "os": f"Android {release}".strip(),
    }
    return {key: printable(value) for key, value in found.items()}


def measure(
    device: Device,
    path: Path,
    *,
    delegate: str,
    num_threads: int,
    warmup_runs: int,
    num_runs: int,
    min_seconds: float,
    cores: Sequence[int] = (),
    time_limit_s: float = 600.0,
) -> NativeTimes:
    """Times a TFLite file on the device, on random inputs; the file is removed from there at the end.

    Args:
        device: with a benchmark_model.
        path: the file.
        delegate: one of DELEGATES.
        num_threads: of the processor.
        warmup_runs: before those that count.
        num_runs: at least.
        min_seconds: at least.
        cores: that it keeps to; none: whatever it is given.
        time_limit_s: of the program.

    Raises:
        MeasurementError: it does not run, not on those cores, or says what is none of its answers.
    """
    assert device.benchmark_model is not None
    link = AdbLink(device)
    _check_cores(link, cores)
    folder = f"{link.folder}/edgekd-{secrets.token_hex(8)}"
    _ask(link, ["mkdir", "-m", "700", "--", folder])
    with _removed(link, folder):
        link.push(path, f"{folder}/model.tflite")
        asked = command(
            device.benchmark_model,
            f"{folder}/model.tflite",
            delegate=delegate,
            num_threads=num_threads,
            warmup_runs=warmup_runs,
            num_runs=num_runs,
            min_seconds=min_seconds,
            cores=cores,
        )
        return parse(_ask(link, asked, time_limit_s), delegate)


def _check_cores(link: AdbLink, cores: Sequence[int]) -> None:
    """That a program there gets the cores: a kernel leaves out in silence what it does not have."""
    if not cores:
        return
    said = _ask(link, [*_kept_to(cores), "sh", "-c", "taskset -p $$"])
    told = _AFFINITY.search(said)
    if told is None or int(told[1], 16) != _mask(cores):
        raise MeasurementError(
            f"cores {sorted(set(cores))} were asked for, the device says: {_last(said)}",
            hint="protocol.cores names cores that are there and online",
        )


@contextlib.contextmanager
def _removed(link: AdbLink, folder: str) -> Iterator[None]:
    """Removes a folder at the end. What went wrong before is what is told."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(MeasurementError):
            _ask(link, ["rm", "-rf", "--", folder])
        raise
    _ask(link, ["rm", "-rf", "--", folder])


def _ask(link: AdbLink, words: Sequence[str], time_limit_s: float = _ASK_S) -> str:
    """What a command there says, on both streams: which of them it takes differs between versions."""
    said = bytearray()

    def keep(block: bytes) -> None:
        if len(said) + len(block) > _MOST_BYTES:
            raise MeasurementError(f"{words[0]} on the device wrote more than {_MOST_BYTES:,} bytes")
        said.extend(block)

    code = link.run(words, keep, keep, time_limit_s)
    text = said.decode("utf-8", errors="replace")
    if code != 0:
        raise MeasurementError(f"{words[0]} on the device: code {code}: {_last(text)}")
    return text


def _last(text: str) -> str:
    return str(printable(" ".join(text.split())[-300:])) or "it printed nothing"
