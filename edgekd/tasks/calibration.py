"""Which training samples calibrate the quantizers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekd.config import CalibrationPolicy
from edgekd.errors import DataError
from edgekd.tasks.common import apportion, sample_hashes
from edgekd.types import Split, Task


def draw(split: Split, policy: CalibrationPolicy, allow_fewer: bool = False) -> NDArray[np.int64]:
    """Indices into `split`, ascending, without repeats, the same for the same policy.

    Args:
        split: the train split.
        policy: strategy, count and seed.
        allow_fewer: take what there is where the policy asks for more, as smoke
            runs do; otherwise that is an error, since a policy would not be kept.

    Raises:
        DataError: too few samples, or no labels where the strategy goes by class.
    """
    rng = np.random.default_rng(policy.seed)
    if policy.strategy == "random":
        return np.sort(rng.permutation(len(split))[: _count(split, policy, allow_fewer)])
    if split.labels is None:
        raise DataError(
            f"calibration {policy.name!r}: strategy {policy.strategy} needs labels, split {split.name!r} has"
            " none",
            hint='use a policy with strategy = "random"',
        )
    classes, counts = np.unique(split.labels, return_counts=True)
    counts = counts.astype(np.int64)
    if policy.strategy == "stratified":
        wanted = apportion(counts, _count(split, policy, allow_fewer), rng)
    else:
        per_class = policy.per_class or 0
        short = np.flatnonzero(counts < per_class)
        if len(short) and not allow_fewer:
            raise DataError(
                f"calibration {policy.name!r} asks for {per_class} samples of each class, split"
                f" {split.name!r} has {counts[short[0]]} of class {classes[short[0]]}",
                hint="lower per_class, or use a stratified policy",
            )
        wanted = np.minimum(counts, per_class)
    drawn = [
        rng.permutation(np.flatnonzero(split.labels == c))[:n] for c, n in zip(classes, wanted, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def _count(split: Split, policy: CalibrationPolicy, allow_fewer: bool) -> int:
    wanted = policy.num_samples or 0
    if wanted > len(split) and not allow_fewer:
        raise DataError(
            f"calibration {policy.name!r} asks for {wanted} samples, split {split.name!r} has {len(split)}",
            hint="lower num_samples, or choose another policy",
        )
    return min(wanted, len(split))


def check_disjoint(ids: NDArray[np.str_], task: Task) -> None:
    """Pass only where no calibration sample stands in val or test, by id or by content.

    Args:
        ids: sample ids of the calibration set, drawn from train or unlabelled.
        task: the task that they belong to.

    Raises:
        DataError: an id of val or test, an unknown id, or content shared with val or test.
    """
    names = {str(i) for i in ids}
    contents: dict[bytes, str] = {}
    for split in (s for n, s in task.splits.items() if n not in ("val", "test")):
        index = np.flatnonzero(np.isin(split.ids, ids))
        contents.update(zip(sample_hashes(split.inputs[index]), map(str, split.ids[index]), strict=True))
        names -= {str(i) for i in split.ids[index]}
    for split in (task.splits["val"], task.splits["test"]):
        for i in map(str, split.ids[np.isin(split.ids, ids)]):
            raise DataError(f"calibration sample {i!r} belongs to split {split.name!r}", hint=_REMEDY)
        for i, h in zip(split.ids, sample_hashes(split.inputs), strict=True):
            if h in contents:
                raise DataError(
                    f"calibration sample {contents[h]!r} has the content of {split.name} sample {str(i)!r}",
                    hint=_REMEDY,
                )
    if names:
        raise DataError(f"calibration sample {min(names)!r} is in no split of task {task.name!r}")


_REMEDY = "calibration samples are drawn from train; see task.on_overlap"
