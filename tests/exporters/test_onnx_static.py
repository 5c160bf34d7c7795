import numpy as np
import onnx
import pytest
from nets import METADATA, inputs, outputs, policy, run_onnx

from edgekd.errors import ExportError, UsageError
from edgekd.exporters import onnx_static


def emit(source, path, scheme, activations=None, samples=None, **observer):
    onnx_static.emit(
        source,
        path,
        scheme=scheme,
        activations=activations,
        samples=samples,
        policy=policy(**observer),
        metadata=METADATA,
    )
    model = onnx.load(path)
    assert {p.key: p.value for p in model.metadata_props} == METADATA
    assert list(path.parent.iterdir()) == [path]  # nothing else is left behind
    return path


def test_fp32_is_the_file_itself(exported, tmp_path):
    _, source = exported("onnx", "fp32")
    path = emit(source, tmp_path / "model.onnx", "fp32")
    np.testing.assert_array_equal(run_onnx(path, inputs(5)), run_onnx(source, inputs(5)))
    assert onnx.load(path).graph == onnx.load(source).graph


@pytest.mark.parametrize("scheme", ["dynamic_wi8_afp32", "weight_only_wi8_afp32", "static_wi8_ai8"])
@pytest.mark.parametrize("activations", ["signed", "unsigned"])
def test_quantized_files_come_close(exported, tmp_path, scheme, activations):
    module, source = exported("onnx", "fp32")
    path = emit(source, tmp_path / "model.onnx", scheme, activations, inputs(48))
    expected = outputs(module, inputs(40, 6))
    for size in (1, 20):
        found = np.concatenate([run_onnx(path, inputs(40, 6)[i : i + size]) for i in range(0, 40, size)])
        assert np.abs(found - expected).mean() < 0.03 * np.ptp(expected)
        assert np.abs(found - expected).max() > 1e-4
    model = onnx.load(path)
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    assert {str(v.dtype) for v in constants.values() if v.size > 1000} == {"int8"}
    if scheme == "static_wi8_ai8":
        zeros = {constants[n.input[2]].dtype.name for n in model.graph.node if n.op_type == "QuantizeLinear"}
        assert zeros == {"int8" if activations == "signed" else "uint8"}


def test_calibration_samples_set_the_ranges(exported, tmp_path):
    source = exported("onnx", "fp32")[1]
    found = []
    for i, factor in enumerate((1, 3)):
        folder = tmp_path / str(i)
        folder.mkdir()
        path = emit(
            source, folder / "model.onnx", "static_wi8_ai8", "unsigned", inputs(20) * np.float32(factor)
        )
        model = onnx.load(path)
        constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
        (first,) = [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "image"]
        found.append(float(constants[first.input[1]]))
    span = inputs(20).max() - inputs(20).min()
    assert found == pytest.approx([span / 255, 3 * span / 255], rel=1e-5)


def test_files_that_list_their_weights_as_inputs(exported, tmp_path):
    _, source = exported("onnx", "fp32")
    model = onnx.load(source)
    for weight in model.graph.initializer:
        info = onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        model.graph.input.insert(0, info)
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    old = tmp_path / "in" / "old.onnx"
    old.write_bytes(model.SerializeToString())
    path = emit(old, tmp_path / "out" / "model.onnx", "static_wi8_ai8", "signed", inputs(20))
    same = onnx.load(path).graph
    assert sum(n.op_type == "QuantizeLinear" for n in same.node) >= 8


def input_range(path):
    """Of the quantizer at the input: its scale times 255."""
    model = onnx.load(path)
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    (first,) = [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "image"]
    return float(constants[first.input[1]]) * 255


def test_the_observer_chooses_the_ranges(exported, tmp_path):
    _, source = exported("onnx", "fp32")
    # Most values near zero, few far out: they make the range by min and max, not by percentiles.
    samples = np.random.default_rng(0).standard_t(2, (64, 2, 8, 8)).astype(np.float32)
    found = {}
    for name, more in {"min_max": {}, "percentile": {"percentile": 99.0}}.items():
        folder = tmp_path / name
        folder.mkdir()
        path = emit(
            source, folder / "model.onnx", "static_wi8_ai8", "unsigned", samples, observer=name, **more
        )
        found[name] = input_range(path)
    assert found["min_max"] == pytest.approx(np.ptp(samples), rel=1e-4)
    assert found["percentile"] < 0.5 * found["min_max"]


@pytest.mark.parametrize("observer", ["mse", "entropy"])
def test_an_observer_that_onnxruntime_does_not_have(exported, tmp_path, observer):
    with pytest.raises(UsageError, match=rf"observer '{observer}' is not offered.*min_max, percentile\)"):
        emit(
            exported("onnx", "fp32")[1],
            tmp_path / "model.onnx",
            "static_wi8_ai8",
            "signed",
            inputs(4),
            observer=observer,
        )


def test_fp16_is_not_offered(exported, tmp_path):
    with pytest.raises(UsageError, match=r"scheme 'fp16' is not offered for an ONNX file"):
        emit(exported("onnx", "fp32")[1], tmp_path / "model.onnx", "fp16")


@pytest.mark.parametrize("scheme", ["dynamic_wi8_afp32", "weight_only_wi8_afp32", "static_wi8_ai8"])
def test_a_file_that_cannot_be_quantized_is_said(tmp_path, scheme):
    source = tmp_path / "in" / "source.onnx"
    source.parent.mkdir()
    source.write_bytes(b"not an ONNX file")
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(ExportError, match=r"source\.onnx: cannot be quantized: "):
        emit(source, folder / "model.onnx", scheme, "signed", inputs(4))
    assert list(folder.iterdir()) == []
