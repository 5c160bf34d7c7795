"""Two features and Keras models of them: a teacher of 2 x 100, trained, and a student of 1 x 10, fresh.

    python make_models.py                        # the two moons
    python make_models.py make_classification 3  # another problem, of seed 3

Writes two-features.npz, teacher.keras and student.keras into the current folder. TensorFlow is not needed.
"""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
from sklearn.datasets import make_classification, make_moons

SAMPLES = {"train": 1_000, "val": 1_000, "test": 20_000}


def draw(name: str, seed: int) -> dict[str, np.ndarray]:
    """Splits of one problem: `train_x` (1000, 2) float32, `train_y` (1000,) and so on."""
    total = sum(SAMPLES.values())
    if name == "make_moons":
        x, y = make_moons(total, noise=0.3, random_state=seed)
    elif name == "make_classification":
        two = {"n_features": 2, "n_informative": 2, "n_redundant": 0}
        x, y = make_classification(total, **two, random_state=seed)
    else:
        raise SystemExit(f"{name!r}: neither make_moons nor make_classification")
    ends = np.cumsum(list(SAMPLES.values()))[:-1]
    xs, ys = np.split(x.astype(np.float32), ends), np.split(y.astype(np.int64), ends)
    arrays = {}
    for split, split_x, split_y in zip(SAMPLES, xs, ys, strict=True):
        arrays |= {f"{split}_x": split_x, f"{split}_y": split_y}
    return arrays


def network(widths: list[int]) -> keras.Model:
    """Layers with ReLU between, ending in a logit for each of the two classes."""
    hidden = [keras.layers.Dense(width, "relu") for width in widths]
    return keras.Sequential([keras.Input((2,)), *hidden, keras.layers.Dense(2)])  # logits


def make(name: str, seed: int, folder: Path) -> None:
    """The three files, in a folder that is there."""
    keras.utils.set_random_seed(seed)
    arrays = draw(name, seed)
    np.savez(folder / "two-features.npz", **arrays)
    teacher = network([100, 100])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile(keras.optimizers.Adam(0.003), loss)
    teacher.fit(arrays["train_x"], arrays["train_y"], batch_size=50, epochs=30, verbose=0)
    teacher.save(folder / "teacher.keras")
    network([10]).save(folder / "student.keras")


if __name__ == "__main__":
    name, seed = (*sys.argv[1:], *("make_moons", "0")[len(sys.argv) - 1 :])
    make(name, int(seed), Path())
