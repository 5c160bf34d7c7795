import numpy as np
import pytest
import torch

from edgekd.errors import UsageError
from edgekd.models.keras import build


@pytest.fixture
def keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    import keras

    return keras


def test_images_are_turned_and_the_weights_are_the_files(keras, tmp_path):
    net = keras.Sequential([keras.Input((5, 4, 3)), keras.layers.Conv2D(2, 3), keras.layers.Flatten()])
    net.save(tmp_path / "a.keras")
    x = np.random.default_rng(0).normal(size=(6, 3, 5, 4)).astype(np.float32)
    found = build((3, 5, 4), 12, str(tmp_path / "a.keras"))(torch.from_numpy(x)).detach().numpy()
    kernel, bias = (np.asarray(w.detach()) for w in (net.layers[0].kernel.value, net.layers[0].bias.value))
    expected = np.zeros((6, 3, 2, 2))
    for row in range(3):
        for column in range(2):
            patch = x[:, :, row : row + 3, column : column + 3]  # (N, C, 3, 3), the kernel (3, 3, C, out)
            expected[:, row, column] = np.einsum("nchw,hwco->no", patch, kernel) + bias
    np.testing.assert_allclose(found, expected.reshape(6, -1), atol=1e-5)


def test_training_reaches_dropout_and_batch_norms(keras, tmp_path):
    layers = [keras.Input((6,)), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    keras.Sequential([*layers, keras.layers.Dense(3)]).save(tmp_path / "a.keras")
    net = build((6,), 3, str(tmp_path / "a.keras"))
    x = torch.randn(32, 6) + 5
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.eval()
    assert torch.equal(net(x), net(x))
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    net.train()
    assert not torch.equal(net(x), net(x))
    assert any(not torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_what_does_not_fit_is_refused(keras, tmp_path):
    keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)]).save(tmp_path / "a.keras")
    with pytest.raises(
        UsageError, match=r"a.keras: takes inputs of shape \(6,\), the task's samples are \(7,\)"
    ):
        build((7,), 3, str(tmp_path / "a.keras"))
    (tmp_path / "b.keras").write_bytes(b"PK no zip")
    with pytest.raises(UsageError, match=r"b\.keras: Keras cannot load it"):
        build((6,), 3, str(tmp_path / "b.keras"))
    with pytest.raises(UsageError, match=r"c\.h5: not a \.keras file"):
        build((6,), 3, str(tmp_path / "c.h5"))


def test_code_in_a_file_is_not_run(keras, tmp_path):
    net = keras.Sequential([keras.Input((6,)), keras.layers.Lambda(lambda x: x * 2)])
    net.save(tmp_path / "a.keras")
    with pytest.raises(UsageError, match="Keras cannot load it"):
        build((6,), 6, str(tmp_path / "a.keras"))
