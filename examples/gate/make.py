"""Writes the example predictions: synthetic, of no real model, so that what is true of them is known.

4,000 products of eight categories in three shops. The teacher is right on 93%. `student.csv` loses and wins
a few samples evenly; `student-one-class.csv` is the same but for the class `shoes`, whose logit was lowered:
the drop of the whole stays small, that of the class does not. The policy beside them asks for both.

    python examples/gate/make.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CLASSES = ("bags", "belts", "dresses", "hats", "jackets", "shirts", "shoes", "trousers")
SHOPS = ("north", "south", "web")
SAMPLES, SHOES = 4000, CLASSES.index("shoes")


def main() -> None:
    """Writes the three files beside this one."""
    rng = np.random.default_rng(7)
    labels = np.arange(SAMPLES) % len(CLASSES)
    shops = rng.integers(0, len(SHOPS), SAMPLES)
    # A true class that stands out by 3.1 on average is the highest of eight in about 93% of the samples.
    teacher = rng.standard_normal((SAMPLES, len(CLASSES)))
    teacher[np.arange(SAMPLES), labels] += 3.1
    student = teacher + 0.12 * rng.standard_normal(teacher.shape)
    one_class = student.copy()
    one_class[:, SHOES] -= 0.6
    for name, logits in (("teacher", teacher), ("student", student), ("student-one-class", one_class)):
        _write(Path(__file__).with_name(f"{name}.csv"), labels, logits.argmax(axis=1), shops)


def _write(path: Path, labels: NDArray[np.int64], said: NDArray[np.int64], shops: NDArray[np.int64]) -> None:
    rows = zip(labels, said, shops, strict=True)
    lines = [f"p{i:04},{CLASSES[y]},{CLASSES[p]},{SHOPS[s]}\n" for i, (y, p, s) in enumerate(rows)]
    path.write_text("sample_id,label,prediction,shop\n" + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
