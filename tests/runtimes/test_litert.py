from importlib import metadata

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from model_files import MLPERF, linear_tflite, needs_mlperf

from edgekd.errors import MeasurementError
from edgekd.runtimes import _interpreter, list_operators, open_session
from edgekd.runtimes._interpreter import split_by_delegate

WEIGHT = [[-2, -1, 0], [1, 2, 3]]
BATCH = np.array([[1, 2, 3], [4, 5, 7], [0, 1, -1]], np.float32)
# x @ w.T by hand
SCORES = [[-4, 14], [-13, 35], [-1, -1]]


@pytest.mark.parametrize("free_batch", [True, False])
def test_scores_by_hand_whatever_the_files_batch(tmp_path, free_batch):
    session = open_session("litert", linear_tflite(tmp_path / "m.tflite", WEIGHT, free_batch=free_batch))
    scores = session.run(BATCH)
    assert scores.dtype == np.float32 and scores.tolist() == SCORES
    assert session.inputs[0].shape == (None if free_batch else 1, 3)
    # After a larger batch a smaller one again, and the same answers.
    assert session.run(BATCH[1:2]).tolist() == SCORES[1:2]


def test_free_batch_runs_in_one_go_and_fixed_batch_one_by_one(tmp_path, monkeypatch):
    for free_batch, runs in ((True, 1), (False, 3)):
        session = open_session("litert", linear_tflite(tmp_path / "m.tflite", WEIGHT, free_batch=free_batch))
        calls = []
        real = session.invoke
        monkeypatch.setattr(session, "invoke", lambda p, real=real, calls=calls: calls.append(1) or real(p))
        session.run(BATCH)
        assert len(calls) == runs


def test_int8_file_by_hand(tmp_path):
    file = linear_tflite(tmp_path / "q.tflite", WEIGHT, kind="int8", steps=(0.5, 0.25, 0.5), zeros=(3, -2))
    session = open_session("litert", file)
    assert session.inputs[0].dtype == "int8"
    # x / 0.5 is whole, so x goes in exactly; x @ (w / 4).T = [-1, 3.5], [-3.25, 8.75], [-.25, -.25],
    # and the output has steps of 0.5, ties away from zero.
    assert session.run(BATCH[:1]).tolist() == [[-1.0, 3.5]]
    second = session.run(BATCH[1:])
    assert np.abs(second - [[-3.25, 8.75], [-0.25, -0.25]]).max() <= 0.25 + 1e-6
    assert (second * 2 == np.rint(second * 2)).all()


@needs_mlperf
def test_public_int8_file_agrees_with_the_interpreter_dequantized_by_hand():
    path = str(MLPERF / "kws_ref_model.tflite")
    real = np.random.default_rng(0).uniform(-100, 30, (5, 49, 10, 1)).astype(np.float32)
    interpreter = Interpreter(path)
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    expected = []
    for sample in real:
        steps = np.clip(np.round(sample / taken["quantization"][0] + taken["quantization"][1]), -128, 127)
        interpreter.set_tensor(taken["index"], steps[None].astype(np.int8))
        interpreter.invoke()
        scale, zero = given["quantization"]
        expected.append((interpreter.get_tensor(given["index"])[0].astype(np.float64) - zero) * scale)
    scores = open_session("litert", path).run(real)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert np.ptp(expected) > 0.5


@needs_mlperf
@pytest.mark.parametrize(
    "name", ["pretrainedResnet.tflite", "pretrainedResnet_quant.tflite", "vww_96_float.tflite"]
)
def test_public_files_give_the_same_at_any_batch(name):
    session = open_session("litert", MLPERF / name)
    side, channels = session.inputs[0].shape[1], session.inputs[0].shape[3]
    batch = np.random.default_rng(0).uniform(0, 1, (4, side, side, channels)).astype(np.float32)
    together = session.run(batch)
    apart = np.concatenate([session.run(batch[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(together, apart, atol=1e-5)
    assert session.inputs[0].shape[0] is None


def test_backend_tells_that_xnnpack_took_the_graph(tmp_path):
    session = open_session("litert", linear_tflite(tmp_path / "m.tflite", WEIGHT), delegate="xnnpack")
    assert session.backend == "xnnpack"
    session.run(BATCH)
    assert session.backend == "xnnpack"
    assert session.version == metadata.version("ai-edge-litert")
    assert session.num_threads == 1


def test_graph_that_xnnpack_does_not_take_runs_as_cpu_only(tmp_path):
    """XNNPACK has no int16 activations: asked for by name, that is an error and no silent fallback."""
    file = linear_tflite(tmp_path / "w.tflite", WEIGHT, kind="int16", steps=(0.5, 0.25, 0.25))
    session = open_session("litert", file, delegate="cpu")
    assert session.backend == "builtin"
    assert session.run(BATCH[:1]).tolist() == [[-1.0, 3.5]]
    with pytest.raises(MeasurementError, match=r"XNNPACK did not take the graph.*FULLY_CONNECTED"):
        open_session("litert", file, delegate="xnnpack")


@needs_mlperf
def test_backend_tells_of_operators_left_to_builtin_kernels():
    """XNNPACK has no int8 AVERAGE_POOL_2D and SOFTMAX; with all convolutions it still took the graph."""
    assert open_session("litert", MLPERF / "pretrainedResnet.tflite").backend == "xnnpack"
    int8 = open_session("litert", MLPERF / "pretrainedResnet_quant.tflite", delegate="xnnpack")
    assert int8.backend == "xnnpack+builtin"
    # The pool and the softmax stand behind each other: one part before them, the dense layer between.
    types = [o.op_type for o in list_operators("litert", MLPERF / "pretrainedResnet_quant.tflite")]
    left = {"AVERAGE_POOL_2D", "SOFTMAX"}
    parts = "".join("-" if kind in left else "x" for kind in types).strip("-").split("-")
    assert int8.delegated() == (len(types) - 2, len(types), len(parts))


def test_gpu_where_there_is_none_is_an_error(tmp_path):
    with pytest.raises(MeasurementError, match="delegate 'gpu'"):
        open_session("litert", linear_tflite(tmp_path / "m.tflite", WEIGHT), delegate="gpu")


@pytest.mark.parametrize("keep", [8, 100, -40])
def test_truncated_file_is_one_line_that_names_it(tmp_path, keep):
    file = linear_tflite(tmp_path / "m.tflite", WEIGHT)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(MeasurementError, match=r"^m\.tflite: litert cannot load it: ") as caught:
        open_session("litert", file)
    assert "\n" not in str(caught.value)


@needs_mlperf
def test_operators_of_a_public_file_with_their_types():
    found = list_operators("litert", MLPERF / "pretrainedResnet_quant.tflite")
    assert [o.op_type for o in found].count("CONV_2D") == 9
    assert "DELEGATE" not in {o.op_type for o in found}
    assert {o.input_dtypes[:2] for o in found if o.op_type == "CONV_2D"} == {("int8", "int8")}


def node(index, kind, inputs, outputs):
    return {"index": index, "op_name": kind, "inputs": inputs, "outputs": outputs}


# conv (weights 10) -> pool -> dense (weights 11), the pool between two parts that a delegate took.
SPLIT_GRAPH = [
    node(0, "CONV_2D", [0, 10], [1]),
    node(1, "AVERAGE_POOL_2D", [1], [2]),
    node(2, "FULLY_CONNECTED", [2, 11], [3]),
    node(3, "DELEGATE", [0, 10], [1]),
    node(4, "DELEGATE", [2, 11], [3]),
]


def test_what_lies_between_two_delegated_parts_was_not_taken():
    assert split_by_delegate(SPLIT_GRAPH) == (["CONV_2D", "FULLY_CONNECTED"], ["AVERAGE_POOL_2D"])
    assert split_by_delegate(SPLIT_GRAPH[:4]) == (["CONV_2D"], ["AVERAGE_POOL_2D", "FULLY_CONNECTED"])
    assert split_by_delegate(SPLIT_GRAPH[:3]) == ([], ["CONV_2D", "AVERAGE_POOL_2D", "FULLY_CONNECTED"])


def test_one_convolution_or_product_left_out_is_not_taking_the_graph(tmp_path, monkeypatch):
    file = linear_tflite(tmp_path / "m.tflite", WEIGHT)
    for left, taken in ((["AVERAGE_POOL_2D", "SOFTMAX"], True), (["SOFTMAX", "FULLY_CONNECTED"], False)):
        monkeypatch.setattr(_interpreter, "split_by_delegate", lambda details, left=left: (["CONV_2D"], left))
        if taken:
            assert open_session("litert", file, delegate="xnnpack").backend == "xnnpack+builtin"
        else:
            with pytest.raises(MeasurementError, match="left to built-in kernels: FULLY_CONNECTED"):
                open_session("litert", file, delegate="xnnpack")
