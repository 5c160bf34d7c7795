"""A device that lies: what it sends is refused and named, and nothing is written but what was asked for."""

import json
import sys
import time

import numpy as np
import pytest
from model_files import linear_onnx

from edgekd.devices import events
from edgekd.devices.board import Board
from edgekd.devices.known import Device
from edgekd.errors import MeasurementError

# Stands on the device in place of Python: it gets the agent and the job, and says what it likes.
LIAR = """#!{python}
import json, os, sys
job = json.load(open(sys.argv[-1]))
folder = os.path.dirname(sys.argv[-1])
def say(**event):
    print(json.dumps(event), flush=True)
{code}
"""
SCORES = """
import hashlib, numpy as np
path = os.path.join(folder, "scores.npy")
np.save(path, np.ones((2, 2), np.float32))
sha256 = hashlib.sha256(open(path, "rb").read()).hexdigest()
"""


SESSION = "say(event='session', id='one', version='1', backend='b', num_threads=1, init_ms=1, "
# What a device truly says of itself and of its conditions, with one field that is a lie.
MACHINE = {
    "event": "machine",
    "cpu": "A76",
    "isa": "aarch64",
    "board": "",
    "os": "Linux",
    "kernel": "6.1",
    "python": "3.11.2",
    "features": ["asimd"],
    "all_features": ["asimd"],
    "denied_features": [],
    "cores": 4,
    "usable_cores": 4,
    "memory_bytes": 2**33,
    "governors": ["ondemand"],
    "clock_khz": [2400000],
    "temperature_c": [50.1],
    "runtimes": {"litert": "2.1.0", "onnxruntime": None},
}
SNAPSHOT = {"throttled_ms": 1.5, "hot_events": 0, "firmware": [], "clock_khz": 9, "temperature_c": -5.5}
SILENT = {"throttled_ms": None, "hot_events": None, "firmware": [], "clock_khz": None, "temperature_c": None}
NAN = float("nan")


def told(event):
    """What becomes of an event that an agent writes."""
    found = events.Events({"mode": "test"})
    found.feed(f"{json.dumps(event)}\n".encode() + b'{"event": "done"}\n')
    return found.ended(0)[0]


def test_what_a_device_truly_says_of_itself_is_taken():
    assert told(MACHINE) == MACHINE
    assert told(MACHINE | {"cores": None})["cores"] is None
    event = {"event": "conditions", "cores": [0, 3], "before": SNAPSHOT, "after": SILENT}
    assert told(event) == event


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("cores", value) for value in (NAN, -1, 4.5, True, "4")),
        *(("usable_cores", value) for value in (None, 2**60, [4])),
        *(("memory_bytes", value) for value in ([[1, 1, 1]], NAN, None, 1e9)),
        *(("features", value) for value in ([1, None], None, {"asimd": 1}, "asimd")),
        *((field, [1]) for field in ("all_features", "denied_features", "governors")),
        *((field, None) for field in ("os", "kernel", "python", "cpu", "isa", "board")),
        *(("clock_khz", value) for value in ([NAN], 9, ["9"])),
        ("temperature_c", [float("inf")]),
        *(("runtimes", value) for value in ({"litert": NAN}, {"litert": ["2"]}, {"litert": 2}, ["litert"])),
    ],
)
def test_lies_of_a_device_about_itself(field, value):
    """All of these stand in the plan of a run."""
    with pytest.raises(MeasurementError, match=f"event 'machine' has {field} = .*, no "):
        told(MACHINE | {field: value})


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("throttled_ms", value) for value in (-1.0, NAN, "1", True)),
        *(("hot_events", value) for value in (-1, 0.5, NAN)),
        *(("clock_khz", value) for value in (0, -5, 9.5, [9])),
        *(("temperature_c", value) for value in (NAN, "hot")),
        *(("firmware", value) for value in (None, [1], "throttled")),
    ],
)
def test_lies_about_conditions(field, value, place):
    for name, rest in (
        ("conditions", {"cores": [0]}),
        ("window", {"at_s": 0.0, "num_runs": 1, "mean_ms": 1.0, "max_ms": 1.0}),
    ):
        event = {"event": name, "before": SNAPSHOT, "after": SNAPSHOT, **rest}
        assert told(event) == event
        with pytest.raises(MeasurementError, match="sent conditions that are none"):
            told(event | {place: SNAPSHOT | {field: value}})
        with pytest.raises(MeasurementError, match="sent conditions that are none"):
            told(event | {place: {key: each for key, each in SNAPSHOT.items() if key != field}})


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ({"event": "conditions", "cores": [0.5], "before": SNAPSHOT, "after": SNAPSHOT}, "cores"),
        ({"event": "conditions", "cores": [True], "before": SNAPSHOT, "after": SNAPSHOT}, "cores"),
        ({"event": "first", "id": "one", "first_ms": -1.0}, "first_ms"),
        ({"event": "memory", "id": "one", "peak_memory_bytes": -1}, "peak_memory_bytes"),
        ({"event": "reference", "fastest_ms": -1.0}, "fastest_ms"),
        (
            {
                "event": "session",
                "id": "one",
                "version": "1",
                "backend": "b",
                "num_threads": 1,
                "init_ms": -1.0,
            },
            "init_ms",
        ),
    ],
)
def test_lies_in_numbers(event, field):
    with pytest.raises(MeasurementError, match=f"has {field} = "):
        told(event)


@pytest.fixture
def ask(tmp_path):
    """Asks a lying device for the scores of two samples."""

    def ask(code):
        (tmp_path / "board").mkdir()
        liar = tmp_path / "liar"
        liar.write_text(LIAR.format(python=sys.executable, code=code))
        liar.chmod(0o755)
        path = linear_onnx(tmp_path / "one.onnx", np.eye(2), [0, 0])
        np.save(tmp_path / "inputs.npy", np.ones((2, 2), np.float32))
        model = {
            "id": "one",
            "path": str(path),
            "runtime": "onnxruntime",
            "delegate": "cpu",
            "num_threads": 1,
        }
        job = {"mode": "predict", "model": model, "batch_size": 2}
        job |= {"inputs": str(tmp_path / "inputs.npy"), "outputs": str(tmp_path / "out.npy")}
        with Board("liar", Device(via="local", python=str(liar), folder=str(tmp_path / "board"))) as board:
            return board.run(job, time_limit_s=60)

    return ask


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('Traceback: no luck')", "wrote what is no event: 'Traceback: no luck'"),
        ("print('[' * 100_000)", "wrote what is no event"),
        ("say(event='surprise')", "wrote what is no event"),
        ("say(event='scores', shape=[2, 2], sha256=3); say(event='done')", "has sha256 = '3', no text"),
        ("say(event=[])", "wrote what is no event"),
        (
            'print(\'{"event": "first", "id": "one", "first_ms": 1\' + \'0\' * 400 + \'}\')',
            "first_ms = '1000",
        ),
        ("say(event='latency', id='one', values_ms=[])", "sent no times"),
        ("say(event='latency', id='one', values_ms=[1.0, -1.0])", "sent times that are none"),
        ("say(event='error', message='\\x1b[2Jno', hint='')", r"predict of one: \?\[2Jno"),
        (
            SESSION + "operators_delegated=3, operators_total=2)",
            "says that 3 of 2 operators were taken",
        ),
        (
            SESSION + "partitions=-1)",
            "has partitions = '-1', no count or null",
        ),
        (
            SESSION + "gpu=[])",
            r"has gpu = '\[\]', no text or null",
        ),
        ("say(event='done')", "predict of one on liar: the agent wrote no scores"),
        ("say(event='scores', shape=[2, 2], sha256='x'); say(event='done')", "No such file"),
        (
            SCORES + "say(event='scores', shape=[2, 2], sha256='0' * 64); say(event='done')",
            r"the agent wrote 0000000000000000\.\.\.",
        ),
        (
            SCORES + "say(event='scores', shape=[2**20, 2**20], sha256=sha256); say(event='done')",
            r"scores of shape \[1048576, 1048576\] are none of 2 samples",
        ),
        (
            SCORES + "say(event='scores', shape=[1, -4], sha256=sha256); say(event='done')",
            "scores of shape .* are none",
        ),
        (
            "open(os.path.join(folder, 'scores.npy'), 'wb').truncate(2**30)\n"
            "say(event='scores', shape=[2, 2], sha256='x'); say(event='done')",
            "1,073,741,824 bytes, where 4,112 are expected",
        ),
        ("os.kill(os.getpid(), 9)", "the process was ended by SIGKILL"),
    ],
)
def test_lies(ask, tmp_path, code, message):
    before = {path for path in tmp_path.parent.rglob("*")}
    with pytest.raises(MeasurementError, match=message):
        ask(code)
    made = {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.parent.rglob("*")) - before}
    assert made <= {"board", "liar", "one.onnx", "inputs.npy"}
    assert list((tmp_path / "board").iterdir()) == []


def header(descr, shape, order=False):
    """Python that writes a file whose header says so, with 16 bytes behind it, as of two samples."""
    return f"""
import hashlib, io, numpy as np
path = os.path.join(folder, "scores.npy")
with open(path, "wb") as file:
    fields = {{"descr": {descr!r}, "fortran_order": {order}, "shape": {shape}}}
    np.lib.format.write_array_header_1_0(file, fields)
    file.write(bytes(16))
"""


def saved(array):
    return f"import hashlib, numpy as np\npath = os.path.join(folder, 'scores.npy')\nnp.save(path, {array})\n"


RAW = "import hashlib\npath = os.path.join(folder, 'scores.npy')\nopen(path, 'wb').write({})\n"
HASHED = "sha256 = hashlib.sha256(open(path, 'rb').read()).hexdigest()\n"


@pytest.mark.parametrize(
    "code",
    [
        header("<f4", (4_000_000_000, 2)),
        header("<f4", (1, 4)),
        header("<f4", (4,)),
        header("<f4", ()),
        header("<f4", (2, 2), order=True),
        header(">f4", (2, 2)),
        header("<f2", (2, 4)),
        header("|S4", (2, 2)),
        header("<U1", (2, 2)),
        saved("np.zeros((2, 2), np.complex128)"),
        saved("np.zeros((2, 2), bool)"),
        saved("np.zeros((2, 2), np.int32)"),
        saved("np.zeros((2, 2), np.float32)") + "open(path, 'ab').write(bytes(4))\n",
        saved("np.zeros((2, 2), np.float32)") + "os.truncate(path, os.path.getsize(path) - 4)\n",
        RAW.format("b''"),
        RAW.format("b'junk' * 20"),
        RAW.format("b'\\x93NUMPY\\x01\\x00\\x00\\x03' + b'[' * 768 + bytes(16)"),
        RAW.format("b'\\x93NUMPY\\x01\\x00\\x14\\x00{1: 2, \\'a\\': 3}        ' + bytes(16)"),
        RAW.format("b'\\x93NUMPY\\x03\\x00' + bytes(100)"),
    ],
)
def test_lies_in_the_file_of_scores(ask, tmp_path, code):
    with pytest.raises(MeasurementError, match=r"scores are no \.npy file of float32 of shape \[2, 2\]"):
        ask(code + HASHED + "say(event='scores', shape=[2, 2], sha256=sha256); say(event='done')")
    assert not (tmp_path / "out.npy").exists() and list((tmp_path / "board").iterdir()) == []


@pytest.mark.parametrize(
    "shape", ["[1, 2]", "[3, 2]", "[2, 65537]", "[2, 0]", "[2, 2.0]", "[2, True]", "[2]", "[2, 2, 1]"]
)
def test_scores_of_other_samples(ask, tmp_path, shape):
    with pytest.raises(MeasurementError, match=r"scores of shape .* are none of 2 samples"):
        ask(SCORES + f"say(event='scores', shape={shape}, sha256=sha256); say(event='done')")


def test_a_device_that_writes_on_and_on_is_cut_off(ask, monkeypatch):
    monkeypatch.setattr(events, "MOST_BYTES", 2**20)
    with pytest.raises(MeasurementError, match="wrote more than 1,048,576 bytes"):
        ask("while True: say(event='memory', id='one', peak_memory_bytes=1)")


def test_what_is_true_is_taken(ask, tmp_path):
    ask(SCORES + "say(event='scores', shape=[2, 2], sha256=sha256); say(event='done')")
    assert np.load(tmp_path / "out.npy").tolist() == [[1, 1], [1, 1]]


def test_a_line_without_an_end_is_cut_off_at_once(ask):
    start = time.monotonic()
    with pytest.raises(MeasurementError, match="a line of more than 16,777,216 bytes"):
        ask("while True: sys.stdout.write('x' * 65536)")
    assert time.monotonic() - start < 30
