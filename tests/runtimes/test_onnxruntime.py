import numpy as np
import onnxruntime
import pytest
from model_files import conv_by_hand, conv_onnx, linear_onnx, write_onnx

from edgekd.errors import MeasurementError
from edgekd.runtimes import list_operators, open_session

WEIGHT, BIAS = [[1, -2], [0.5, 3]], [10, 20]
BATCH = np.array([[2, 4], [1, 0], [0, -2]], np.float32)
# x @ w + b by hand: [2+2+10, -4+12+20], [1+0+10, -2+0+20], [0-1+10, 0-6+20]
SCORES = [[14, 28], [11, 18], [9, 14]]


@pytest.fixture
def images():
    rng = np.random.default_rng(1)
    weight = rng.integers(-60, 60, (4, 2, 3, 3)) / 64
    return weight, rng.integers(0, 4, (3, 2, 6, 6)).astype(np.float32)


@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_scores_by_hand_whatever_the_files_batch(tmp_path, batch):
    session = open_session("onnxruntime", linear_onnx(tmp_path / "m.onnx", WEIGHT, BIAS, batch))
    scores = session.run(BATCH)
    assert scores.dtype == np.float32 and scores.tolist() == SCORES
    assert session.inputs[0].shape == (None if batch == "N" else batch, 2)


def test_free_batch_runs_in_one_go_and_fixed_batch_one_by_one(tmp_path, monkeypatch):
    for batch, runs in (("N", 1), (1, 3)):
        session = open_session("onnxruntime", linear_onnx(tmp_path / "m.onnx", WEIGHT, BIAS, batch))
        calls = []
        real = session.invoke
        monkeypatch.setattr(session, "invoke", lambda p, real=real, calls=calls: calls.append(1) or real(p))
        session.run(BATCH)
        assert len(calls) == runs


def test_fixed_batch_that_does_not_divide_is_refused(tmp_path):
    session = open_session("onnxruntime", linear_onnx(tmp_path / "m.onnx", WEIGHT, BIAS, 2))
    with pytest.raises(MeasurementError, match="batch is fixed at 2; 3 samples"):
        session.run(BATCH)


def test_sample_of_another_shape_is_refused(tmp_path):
    session = open_session("onnxruntime", linear_onnx(tmp_path / "m.onnx", WEIGHT, BIAS))
    with pytest.raises(MeasurementError, match="takes samples of shape 2, got 5"):
        session.run(np.zeros((1, 5), np.float32))


def test_convolution_agrees_with_numpy(tmp_path, images):
    weight, x = images
    scores = open_session("onnxruntime", conv_onnx(tmp_path / "c.onnx", weight)).run(x)
    np.testing.assert_allclose(scores, conv_by_hand(x, weight), atol=1e-5)


def test_half_precision_file_takes_and_gives_floats(tmp_path):
    onnx = pytest.importorskip("onnx")
    half = onnx.TensorProto.FLOAT16
    file = write_onnx(
        tmp_path / "h.onnx",
        [("MatMul", ["x", "w"], ["y"], {})],
        [("x", ["N", 2], half)],
        [("y", ["N", 2], half)],
        {"w": np.array(WEIGHT, np.float16)},
    )
    scores = open_session("onnxruntime", file).run(BATCH)
    assert scores.dtype == np.float32
    assert scores.tolist() == [[4, 8], [1, -2], [-1, -6]]


def test_output_without_the_batch_is_refused(tmp_path):
    file = write_onnx(
        tmp_path / "s.onnx",
        [("ReduceSum", ["x"], ["y"], {"keepdims": 0})],
        [("x", ["N", 2])],
        [("y", [])],
        {},
    )
    with pytest.raises(MeasurementError, match=r"output 'y' has shape \(\) for a batch of 3"):
        open_session("onnxruntime", file).run(BATCH)


@pytest.mark.parametrize("threads", [1, 2])
def test_session_reports_version_backend_and_threads(tmp_path, threads):
    session = open_session("onnxruntime", linear_onnx(tmp_path / "m.onnx", WEIGHT, BIAS), num_threads=threads)
    assert session.version == onnxruntime.__version__
    assert session.backend == "CPUExecutionProvider"
    assert session.num_threads == threads


@pytest.mark.parametrize("delegate", ["gpu", "xnnpack"])
def test_backend_that_this_build_lacks_is_an_error(tmp_path, delegate):
    file = linear_onnx(tmp_path / "m.onnx", WEIGHT, BIAS)
    with pytest.raises(MeasurementError, match=rf"delegate '{delegate}'.*no such backend \(it has: .*CPU"):
        open_session("onnxruntime", file, delegate=delegate)


@pytest.mark.parametrize("keep", [40, -3])
def test_truncated_file_is_one_line_that_names_it(tmp_path, keep):
    file = linear_onnx(tmp_path / "m.onnx", WEIGHT, BIAS)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(MeasurementError, match=r"^m\.onnx: onnxruntime cannot load it: INVALID") as caught:
        open_session("onnxruntime", file)
    assert "\n" not in str(caught.value)


def test_operators_are_those_of_the_fused_graph(tmp_path, images):
    found = list_operators("onnxruntime", conv_onnx(tmp_path / "c.onnx", images[0]))
    # The ReLU is fused into the convolution.
    assert [o.op_type for o in found] == ["FusedConv", "GlobalAveragePool", "Flatten"]
    assert found[0].input_dtypes == ("float32", "float32")


@pytest.mark.parametrize("zero", [np.int8(-128), np.uint8(0)], ids=["signed", "unsigned"])
def test_operators_of_both_int8_conventions(tmp_path, images, zero):
    """A file with signed activations must show here what Arm runs, on whatever computer."""
    found = list_operators("onnxruntime", conv_onnx(tmp_path / "q.onnx", images[0], zero))
    types = [o.op_type for o in found]
    assert "QLinearConv" in types and "QLinearGlobalAveragePool" in types
    assert not any(o.op_type.endswith("Conv") for o in found if o.op_type != "QLinearConv")
    conv = found[types.index("QLinearConv")]
    assert conv.input_dtypes[0] == zero.dtype.name


def test_operators_leave_no_files_behind(tmp_path, images, monkeypatch):
    file = conv_onnx(tmp_path / "c.onnx", images[0])
    monkeypatch.chdir(tmp_path)
    list_operators("onnxruntime", file)
    assert [p.name for p in tmp_path.iterdir()] == ["c.onnx"]


def test_random_inputs_follow_shape_dtype_and_seed(tmp_path):
    session = open_session("onnxruntime", linear_onnx(tmp_path / "m.onnx", WEIGHT, BIAS))
    (one,), (again,), (other,) = (session.random_inputs(seed) for seed in (0, 0, 1))
    assert one.shape == (1, 2) and one.dtype == np.float32
    assert one.tolist() == again.tolist() != other.tolist()
