"""Sustained load: a file run without a pause for minutes, to see when the device slows down."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.devices.events import Event, RunJob
from edgekd.devices.local import run_agent
from edgekd.errors import MeasurementError
from edgekd.measure.latency import Subject, job_model, kind_on_gpu
from edgekd.measurements import Kind

MOST_WINDOWS = 300
SLOWER = 1.10  # times what a run took at first
_FIRST, _NEXT = 10, 10  # windows: that tell what a run takes at first, and that must be slower alike
_WARMUP_RUNS, _SPARE_S = 10, 300.0


@dataclass(frozen=True)
class Window:
    """What runs took in a span of time.

    Attributes:
        at_s: its begin, in seconds from the first run.
        num_runs: how many there were.
        mean_ms: what one took, pauses included that the device made.
        max_ms: the longest.
        throttled_ms: for how long quotas held the process meanwhile; None where its kernel does not tell.
        clock_khz: of the fastest core, at its end.
        temperature_c: of the hottest zone, at its end.
    """

    at_s: float
    num_runs: int
    mean_ms: float
    max_ms: float
    throttled_ms: float | None
    clock_khz: int | None
    temperature_c: float | None


@dataclass(frozen=True)
class Sustained:
    """A file under sustained load.

    Attributes:
        delegate: that was asked for.
        backend: what ran the graph.
        windows: in order.
        slowed_at_s: from when on the device was slower than at first; None where it never was for long.
        software_gpu: whether a program on the processor stood in for a GPU; None where nobody tells.
    """

    delegate: str
    backend: str
    windows: tuple[Window, ...]
    slowed_at_s: float | None
    software_gpu: bool | None = None

    def kind(self, of_device: Kind) -> Kind:
        """What its times are, on a device whose times are `of_device`."""
        return kind_on_gpu(of_device, self.delegate, [self.software_gpu])

    @property
    def is_slower(self) -> bool:
        """Whether it slowed down for long, or was slower in the end."""
        return self.slowed_at_s is not None or self.last_ms > SLOWER * self.first_ms

    @property
    def first_ms(self) -> float:
        """What a run took at first."""
        return statistics.median(w.mean_ms for w in self.windows[:_FIRST])

    @property
    def last_ms(self) -> float:
        """What a run took in the end."""
        return statistics.median(w.mean_ms for w in self.windows[-_FIRST:])


def measure_sustained(
    one: Subject,
    seconds: float,
    *,
    num_threads: int,
    cores: Sequence[int] = (),
    seed: int = 0,
    window_s: float | None = None,
    run: RunJob = run_agent,
) -> Sustained:
    """Runs a file for so long on random inputs, by windows of a second or more unless told otherwise.

    Raises:
        MeasurementError: the file does not run, or the time is too short to tell anything.
    """
    window_s = window_s or max(1.0, seconds / MOST_WINDOWS)
    if seconds < (_FIRST + _NEXT) * window_s:
        raise MeasurementError(
            f"{seconds:g} s of sustained load: too short to see a device slow down",
            hint=f"at least {(_FIRST + _NEXT) * window_s:g} s, 5m say",
        )
    job = {
        "mode": "sustained",
        "model": job_model(one, num_threads),
        "warmup_runs": _WARMUP_RUNS,
        "seconds": seconds,
        "window_s": window_s,
        "seed": seed,
        "cores": list(cores),
    }
    events = run(job, time_limit_s=seconds + _SPARE_S)
    windows = tuple(_window(event) for event in events if event["event"] == "window")
    session = next((event for event in events if event["event"] == "session"), None)
    if session is None or len(windows) < _FIRST + _NEXT:
        raise MeasurementError(
            f"{one.id}: only {len(windows)} windows of {window_s:g} s: too few to see a device slow down",
            hint="a longer --sustained: one inference may take longer than a window",
        )
    return Sustained(
        one.delegate, str(session["backend"]), windows, slowed_at_s(windows), session.get("software_gpu")
    )


def slowed_at_s(windows: Sequence[Window]) -> float | None:
    """The begin of the first window that was slower than at first by a tenth, as those after it were."""
    means = [window.mean_ms for window in windows]
    limit = SLOWER * statistics.median(means[:_FIRST])
    for number in range(_FIRST, len(means) - _NEXT // 2):
        if means[number] > limit and statistics.median(means[number : number + _NEXT]) > limit:
            return windows[number].at_s
    return None


def _window(event: Event) -> Window:
    before, after = event["before"]["throttled_ms"], event["after"]["throttled_ms"]
    return Window(
        at_s=float(event["at_s"]),
        num_runs=int(event["num_runs"]),
        mean_ms=float(event["mean_ms"]),
        max_ms=float(event["max_ms"]),
        throttled_ms=None if before is None or after is None else after - before,
        clock_khz=event["after"]["clock_khz"],
        temperature_c=event["after"]["temperature_c"],
    )
