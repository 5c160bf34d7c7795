"""A .keras file from layers of torch: each against what Keras itself computes."""

import numpy as np
import pytest
import torch
from nets import inputs, policy, run_tflite, write
from torch import nn

from edgekd.errors import ParityError, UsageError
from edgekd.measure.inventory import inventory_of
from edgekd.models import keras_layers
from edgekd.models.keras import build
from edgekd.quantize import qat
from edgekd.quantize.schemes import lower

IMAGE = (9, 7, 3)  # (H, W, C): all three differ, so that none can stand for another


@pytest.fixture
def keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    import keras

    keras.utils.set_random_seed(0)
    return keras


def lively(net):
    """Weights of which none is 0 or 1, as after training."""
    rng = np.random.default_rng(1)
    for weight in net.weights:
        if "seed" not in weight.name:
            low = 0.5 if "variance" in weight.name else -0.5
            weight.assign(rng.uniform(low, 0.9, weight.shape))
    return net


def both(net, folder, classes, native=True):
    """(outputs of Keras, of the native network, that network) for the same samples."""
    lively(net).save(folder / "a.keras")
    shape = tuple(net.input_shape[1:])
    x = np.random.default_rng(2).normal(size=(5, *shape)).astype(np.float32)
    theirs = np.asarray(net(x, training=False).detach())
    turned = (shape[2], *shape[:2]) if len(shape) == 3 else shape
    fed = torch.from_numpy(x.transpose(0, 3, 1, 2) if len(shape) == 3 else x)
    module = build(turned, classes, str(folder / "a.keras"), native=native).eval()
    with torch.no_grad():
        return theirs, module(fed).numpy(), module


def sequence(keras, shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


def dense_net(keras):
    layers = keras.layers
    return sequence(
        keras,
        (6,),
        layers.Dense(12, "relu"),
        layers.BatchNormalization(epsilon=0.01),
        layers.Dropout(0.3),
        layers.Dense(8, "tanh", use_bias=False),
        layers.Activation("sigmoid"),
        layers.Dense(4, "relu6"),
        layers.Dense(3),
    )


LAYERS = {
    "valid": lambda k: [k.Conv2D(4, (3, 2))],
    "same, odd": lambda k: [k.Conv2D(4, 3, padding="same")],
    "same, even kernel": lambda k: [k.Conv2D(4, (2, 4), padding="same")],
    "same, stride": lambda k: [k.Conv2D(4, 3, strides=2, padding="same")],
    "same, two strides": lambda k: [k.Conv2D(4, (4, 3), strides=(3, 2), padding="same")],
    "dilation": lambda k: [k.Conv2D(4, 3, dilation_rate=2, padding="same")],
    "groups": lambda k: [k.Conv2D(6, 3, groups=3)],
    "no bias": lambda k: [k.Conv2D(4, 1, use_bias=False)],
    "depthwise": lambda k: [k.DepthwiseConv2D(3, padding="same")],
    "depthwise, twice": lambda k: [k.DepthwiseConv2D((2, 3), strides=2, depth_multiplier=2)],
    "batch norm": lambda k: [k.BatchNormalization(), k.Conv2D(4, 3)],
    "batch norm, bare": lambda k: [k.BatchNormalization(scale=False, center=False)],
    "max": lambda k: [k.MaxPooling2D(2), k.ReLU(max_value=6)],
    "max, overlapping": lambda k: [k.MaxPooling2D((3, 2), strides=(2, 1))],
    "average": lambda k: [k.AveragePooling2D((2, 3))],
    "padded": lambda k: [k.ZeroPadding2D(((0, 1), (2, 3))), k.Conv2D(4, 3, strides=2)],
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("end", ["flatten", "mean"])
def test_layers_of_images(keras, tmp_path, name, end):
    k = keras.layers
    ending = {
        "flatten": [k.Flatten(), k.BatchNormalization(), k.Dense(5)],
        "mean": [k.GlobalAveragePooling2D(), k.Flatten(), k.Dense(5)],
    }
    net = sequence(keras, IMAGE, *LAYERS[name](k), k.Activation("relu"), *ending[end])
    theirs, here, module = both(net, tmp_path, 5)
    np.testing.assert_allclose(here, theirs, rtol=1e-4, atol=1e-5)
    assert not any(m.__module__.startswith("keras") for m in module.modules())


def test_features(keras, tmp_path):
    theirs, here, module = both(dense_net(keras), tmp_path, 3)
    np.testing.assert_allclose(here, theirs, rtol=1e-4, atol=1e-6)
    kinds = [type(m) for m in module.modules() if not list(m.children())]
    assert kinds.count(nn.Linear) == 4 and kinds.count(nn.BatchNorm1d) == 1
    (dropout,) = (m for m in module.modules() if isinstance(m, nn.Dropout))
    assert dropout.p == 0.3
    assert all(p.requires_grad for p in module.parameters())


def test_training_moves_a_batch_norm_as_keras_does(keras, tmp_path):
    k = keras.layers
    net = lively(sequence(keras, (4,), k.BatchNormalization(momentum=0.9), k.Dense(2)))
    net.save(tmp_path / "a.keras")
    module = build((4,), 2, str(tmp_path / "a.keras"), native=True).train()
    x = np.random.default_rng(0).normal(3, 2, (2000, 4)).astype(np.float32)
    net(x, training=True)
    module(torch.from_numpy(x))
    (norm,) = (m for m in module.modules() if isinstance(m, nn.BatchNorm1d))
    mean, variance = (np.asarray(w.value.detach()) for w in net.layers[0].non_trainable_variables)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-4)
    # One divides by n, the other by n - 1.
    np.testing.assert_allclose(norm.running_var.numpy(), variance, rtol=1e-3)


@pytest.mark.parametrize("end", ["softmax", "layer", "sigmoid"])
def test_logits_stand_before_an_ending(keras, tmp_path, end):
    k = keras.layers
    last = [k.Dense(3), k.Softmax()] if end == "layer" else [k.Dense(3, end)]
    theirs, here, _ = both(sequence(keras, (6,), k.Dense(8, "relu"), *last), tmp_path, 3)
    if end == "sigmoid":
        np.testing.assert_allclose(here, np.log(theirs) - np.log1p(-theirs), rtol=1e-3, atol=1e-4)
    else:
        powers = np.exp(here)
        np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), theirs, rtol=1e-4)


def test_a_functional_model_with_a_sum(keras, tmp_path):
    k = keras.layers
    x = keras.Input(IMAGE, name="x")
    a = k.Conv2D(4, 3, padding="same", name="a-b")(x)
    b = k.Conv2D(4, 1, name="a_b")(x)
    y = k.Add(name="training")([k.BatchNormalization()(a), b, b])
    y = k.ReLU(name="keys")(y)
    y = k.Dense(5, name="out")(k.GlobalAveragePooling2D(name="input")(y))
    theirs, here, module = both(keras.Model(x, y), tmp_path, 5)
    np.testing.assert_allclose(here, theirs, rtol=1e-4, atol=1e-5)
    assert "layers.out.weight" in dict(module.named_parameters())


REFUSED = {
    r"LayerNormalization\) has no native form: its kind is not known": lambda k: [
        k.LayerNormalization(),
        k.Dense(3),
    ],
    "'gelu'": lambda k: [k.Dense(4, "gelu"), k.Dense(3)],
    "'softmax' before the end": lambda k: [k.Dense(4, "softmax"), k.Dense(3)],
    "it has a slope": lambda k: [k.Dense(4), k.ReLU(negative_slope=0.1), k.Dense(3)],
    "noise_shape": lambda k: [k.Dropout(0.5, noise_shape=(None, 1)), k.Dense(3)],
}
REFUSED_IMAGES = {
    "a Flatten layer must come before it": lambda k: [k.Dense(3)],
    "a Dense layer must come after it": lambda k: [k.Conv2D(3, 3)],
    'take padding="valid"': lambda k: [k.MaxPooling2D(2, padding="same"), k.Flatten(), k.Dense(3)],
    r"Reshape\) has no native form": lambda k: [k.Reshape((9 * 7, 3)), k.Flatten(), k.Dense(3)],
    "axis": lambda k: [k.BatchNormalization(axis=1), k.Flatten(), k.Dense(3)],
    "keepdims": lambda k: [k.GlobalAveragePooling2D(keepdims=True), k.Flatten(), k.Dense(3)],
    "images \\(H, W, C\\)": lambda k: [
        k.MaxPooling2D(2, data_format="channels_first"),
        k.Flatten(),
        k.Dense(3),
    ],
}


@pytest.mark.parametrize("said", [*REFUSED, *REFUSED_IMAGES])
def test_what_has_no_native_form_is_refused_by_name(keras, tmp_path, said):
    shape, layers = ((6,), REFUSED[said]) if said in REFUSED else (IMAGE, REFUSED_IMAGES[said])
    sequence(keras, shape, *layers(keras.layers)).save(tmp_path / "a.keras")
    turned = (shape[2], *shape[:2]) if len(shape) == 3 else shape
    with pytest.raises(UsageError, match=rf"a\.keras: layer '\w+' \(.*{said}") as refused:
        build(turned, 3, str(tmp_path / "a.keras"), native=True)
    assert "no native form" in str(refused.value) and "DepthwiseConv2D" in str(refused.value)
    assert "student.onnx" in str(refused.value)


def test_models_of_other_forms_are_refused(keras, tmp_path):
    k = keras.layers
    shared = k.Dense(6, name="twice")
    x = keras.Input((6,))
    keras.Model(x, k.Dense(3)(shared(shared(x)))).save(tmp_path / "a.keras")
    with pytest.raises(UsageError, match=r"layer 'twice' \(Dense\).*called 2 times"):
        build((6,), 3, str(tmp_path / "a.keras"), native=True)
    inner = sequence(keras, (6,), k.Dense(4))
    sequence(keras, (6,), inner, k.Dense(3)).save(tmp_path / "b.keras")
    with pytest.raises(UsageError, match="a model inside of the model"):
        build((6,), 3, str(tmp_path / "b.keras"), native=True)
    keras.Model(x, [k.Dense(3)(x), k.Dense(2)(x)]).save(tmp_path / "d.keras")
    with pytest.raises(UsageError, match="it gives 2 outputs, not one"):
        build((6,), 3, str(tmp_path / "d.keras"), native=True)
    keras.Model(x, x).save(tmp_path / "e.keras")
    with pytest.raises(UsageError, match="has no native form: it has no layers"):
        build((6,), 6, str(tmp_path / "e.keras"), native=True)
    sequence(keras, (3, 9, 7), k.Flatten(), k.Dense(3)).save(tmp_path / "c.keras")
    with pytest.raises(UsageError, match=r"takes images as \(3, 9, 7\).*channels_last"):
        build((3, 9, 7), 3, str(tmp_path / "c.keras"), native=True)


@pytest.mark.parametrize("end", [None, "softmax"])
def test_another_result_than_keras_is_an_error(keras, tmp_path, monkeypatch, end):
    """A layer that is filled wrongly, as a fault here or another version of Keras could."""
    k = keras.layers
    lively(sequence(keras, (6,), k.Dense(8, "relu"), k.Dense(3, end))).save(tmp_path / "a.keras")
    fill = keras_layers._fill
    monkeypatch.setattr(keras_layers, "_fill", lambda parameter, values: fill(parameter, values * 1.001))
    with pytest.raises(ParityError, match=r"a\.keras: rebuilt natively it gives other outputs"):
        build((6,), 3, str(tmp_path / "a.keras"), native=True)


@pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")
def test_images_come_out_in_integers(keras, tmp_path):
    """Through folding, quantizers and the exporter: no float operator, and about what Keras says."""
    k = keras.layers
    body = [
        k.Conv2D(8, 3, strides=2, padding="same", use_bias=False),
        k.BatchNormalization(),
        k.ReLU(),
        k.DepthwiseConv2D(3, padding="same", activation="relu"),
        k.MaxPooling2D(2),
        k.Flatten(),
        k.Dense(5),
    ]
    net = lively(sequence(keras, (8, 8, 2), *body))
    net.save(tmp_path / "a.keras")
    module = build((2, 8, 8), 5, str(tmp_path / "a.keras"), native=True)
    quantized = qat.prepare(module, inputs(64), policy())
    path = tmp_path / "a.tflite"
    write(lower(quantized, torch.from_numpy(inputs(1)), "signed", "tflite"), path, "tflite", "static_wi8_ai8")
    found = inventory_of(path, "tflite")
    assert found.float_ops == 0 and found.int8_ops >= 3, found.operators
    x = inputs(64)
    with torch.no_grad():
        theirs = net(torch.from_numpy(x.transpose(0, 2, 3, 1)), training=False).numpy()
    here = np.concatenate([run_tflite(path, x[i : i + 1]) for i in range(64)])
    assert np.abs(here - theirs).max() < 0.05 * np.ptp(theirs)
