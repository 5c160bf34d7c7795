"""What a training stage sees, step by step: samples as augmentation and mixing leave them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd import augment, mixing
from edgekd.config import MixConfig, TrainConfig
from edgekd.types import VECTOR, InputSpec, Split


@dataclass(frozen=True)
class TrainingSet:
    """Samples to train on.

    Attributes:
        split: raw samples and labels.
        spec: how they are prepared.
        teacher: cached teacher logits (views, N, classes), or None.
        views: augmented views to cycle through; without a teacher every epoch has one of its own.
        seed: of augmentation: the views that the teacher saw.
        live: the teacher itself, where losses look into it; then it sees every batch and `teacher` is None.
        student_layers: module paths in the student that losses name.
        teacher_layers: the same in the live teacher.
        order_seed: of the order of samples and of what else is drawn; `seed` if left out.
        val: samples on which training that stops early is watched.
        others: what the teacher looks at in place of the student's inputs, as (split, spec), or None.
        num_classes: of the first outputs; None: all outputs are of classes.
        num_judged: outputs, the first ones, that are judged; None: all are.
        epochs_before: of earlier rounds: order and views go on from there.
    """

    split: Split
    spec: InputSpec
    teacher: NDArray[np.float16] | None
    views: int
    seed: int
    live: nn.Module | None = None
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()
    order_seed: int | None = None
    val: Split | None = None
    others: tuple[Split, InputSpec] | None = None
    num_classes: int | None = None
    epochs_before: int = 0
    num_judged: int | None = None

    def draw(self, *entropy: int) -> np.random.Generator:
        """A generator of its own for each epoch and purpose."""
        return np.random.default_rng([self.seed if self.order_seed is None else self.order_seed, *entropy])


@dataclass(frozen=True)
class Step:
    """One step's samples.

    Attributes:
        inputs: model inputs (B, *shape).
        picked: (B,) places in the split.
        labels: (B,), or None.
        other_labels: (B,) of the samples that are mixed in, or None.
        shares: (B,) of `labels`, the rest being the others'; None where nothing is mixed.
        teacher: cached outputs (B, K), or None.
        teacher_inputs: (B, ...) of a teacher that runs along and looks at another modality, or None.
        head_labels: (B,) of the task's further heads, by name.
        other_head_labels: the same of the samples that are mixed in.
    """

    inputs: Tensor
    picked: Tensor
    labels: Tensor | None
    other_labels: Tensor | None
    shares: Tensor | None
    teacher: Tensor | None
    teacher_inputs: Tensor | None = None
    head_labels: Mapping[str, Tensor] = field(default_factory=dict)
    other_head_labels: Mapping[str, Tensor] = field(default_factory=dict)


class _Rows:
    """Two arrays (N, ...) one after the other, without a copy: they stay mapped from their files."""

    def __init__(self, first: NDArray[Any], second: NDArray[Any]) -> None:
        self._first, self._second = first, second

    def __getitem__(self, picked: NDArray[np.int64]) -> NDArray[Any]:
        """The rows at `picked` (B,)."""
        found = np.empty((len(picked), *self._first.shape[1:]), self._first.dtype)
        early = picked < len(self._first)
        found[early] = self._first[picked[early]]
        found[~early] = self._second[picked[~early] - len(self._first)]
        return found


def with_unlabelled(labelled: Split, unlabelled: Split) -> Split:
    """Both as one split to train on, whose label is -1 where there is none."""
    assert labelled.labels is not None
    inputs: Any = _Rows(labelled.inputs, unlabelled.inputs)
    labels = np.concatenate((labelled.labels, np.full(len(unlabelled), -1, np.int64)))
    ids = np.concatenate((labelled.ids, unlabelled.ids))
    modalities: dict[str, Any] = {
        name: _Rows(other, unlabelled.modalities[name]) for name, other in labelled.modalities.items()
    }
    none = np.full(len(unlabelled), -1, np.int64)
    heads = {head: np.concatenate((found, none)) for head, found in labelled.head_labels.items()}
    return Split(labelled.name, ids, inputs, labels, modalities, heads)


class View:
    """All samples of a split in one view: what the teacher's cache was built on and the student sees."""

    def __init__(
        self, split: Split, spec: InputSpec, names: Sequence[str], mix: MixConfig, seed: int, view: int
    ) -> None:
        self._split, self._spec = split, spec
        self._params = torch.from_numpy(augment.draw(len(split), names, spec.shape, seed, view))
        self._texts = None
        if "words" in names:
            self._texts = augment.replace_words(split.inputs[np.arange(len(split))], seed, view)
        self.pairs = mixing.draw(mix, len(split), spec.shape, seed, view) if mix else None

    def inputs(self, picked: NDArray[np.int64]) -> Tensor:
        """Model inputs (B, *shape) of the samples at `picked`."""
        x = self._augmented(picked)
        if self.pairs is None:
            return x
        return mixing.apply(x, self._augmented(self.pairs.partners[picked]), self.pairs, picked)

    def _augmented(self, picked: NDArray[np.int64]) -> Tensor:
        # A copy: the store's files are mapped read-only, and torch warns of what cannot be written.
        found = self._split.inputs if self._texts is None else self._texts
        raw = torch.from_numpy(np.ascontiguousarray(found[picked]))
        return normalise(augment.apply(raw, self._params[picked], self._spec.raw_range[0]), self._spec)


def normalise(raw: Tensor, spec: InputSpec) -> Tensor:
    """Raw samples (B, *shape) to model inputs; the torch twin of `InputSpec.preprocess`."""
    if spec.of_ids:
        return raw
    along = (1, -1) + (1,) * (len(spec.shape) - 1)
    mean = torch.tensor(spec.mean, device=raw.device).reshape(along)
    std = torch.tensor(spec.std, device=raw.device).reshape(along)
    return (raw.float() / spec.scale - mean) / std


def mapped_view(outputs: NDArray[np.float16], view: int) -> NDArray[np.float16]:
    """One view (N, K) of cached outputs (views, N, K).

    Of a file it is mapped by itself: pages that were read stay in memory until their mapping goes, so a run
    holds those of one view, however many there are.
    """
    if not isinstance(outputs, np.memmap):
        return np.asarray(outputs[view])
    offset = outputs.offset + view * outputs.strides[0]
    mode: Any = "r" if outputs.mode == "r" else "r+"
    found: Any = np.memmap(str(outputs.filename), np.float16, mode, offset, outputs.shape[1:])
    return cast(NDArray[np.float16], found)


def steps_of(split: Split, config: TrainConfig, processes: int = 1) -> int:
    """Steps an epoch; the last, smaller batch is left out: the next epoch's order differs."""
    return len(split) // _whole(split, config, processes)


def _whole(split: Split, config: TrainConfig, processes: int) -> int:
    """Samples of a step over all processes."""
    return min(config.batch_size * processes, len(split))


def steps(
    data: TrainingSet, config: TrainConfig, epoch: int, rank: int = 0, processes: int = 1
) -> Iterator[Step]:
    """The steps of one epoch.

    Args:
        data: what to draw from.
        config: batch size (of one process), augmentation, mixing.
        epoch: from 0; chooses order and view.
        rank: of this process, of `processes`, which share each step's samples between them.
        processes: as many as train together.
    """
    split, epoch = data.split, data.epochs_before + epoch
    told = epoch % data.views if data.teacher is not None else epoch
    # A teacher that looks at something else is not shown what is done to the student's inputs.
    view = epoch if data.others is not None and not config.mix else told
    live = data.live is not None and data.others is not None
    other = View(*data.others, (), config.mix, data.seed, view) if live and data.others else None
    seen = View(split, data.spec, config.augment, config.mix, data.seed, view)
    outputs = None if data.teacher is None else mapped_view(data.teacher, told)
    order = _order(split, data.draw(epoch, 1))
    size = _whole(split, config, processes)
    for step in range(steps_of(split, config, processes)):
        share = size // processes
        start = step * size + rank * share  # of a piece: pairs stay in one process
        picked = np.sort(order[start : start + share])  # in order: memory-mapped files like it
        teacher = None
        if outputs is not None:
            teacher = torch.from_numpy(np.asarray(outputs[picked], np.float32))
        partners = None if seen.pairs is None else seen.pairs.partners[picked]
        labels, others = (None, None) if split.labels is None else _labels(split.labels, picked, partners)
        heads = {head: _labels(found, picked, partners) for head, found in split.head_labels.items()}
        yield Step(
            seen.inputs(picked),
            torch.from_numpy(picked),
            labels,
            others,
            None if seen.pairs is None else torch.from_numpy(seen.pairs.shares[picked]),
            teacher,
            None if other is None else other.inputs(picked),
            {head: own for head, (own, _) in heads.items()},
            {head: mixed for head, (_, mixed) in heads.items() if mixed is not None},
        )


def _order(split: Split, rng: np.random.Generator) -> NDArray[np.int64]:
    """Places of all samples (N,) in the order of an epoch.

    Where vectors are trained, samples that are the same thing stand in pairs: a step has some to compare.
    """
    order = rng.permutation(len(split))
    if VECTOR not in split.head_labels:
        return order
    # Sorted by thing, those of each in a random order still; its first two are a pair, and so on.
    order = order[np.argsort(split.head_labels[VECTOR][order], kind="stable")]
    thing = split.head_labels[VECTOR][order]
    first = np.flatnonzero(np.r_[True, thing[1:] != thing[:-1]])
    place = np.arange(len(order)) - np.repeat(first, np.diff(np.r_[first, len(order)]))
    pair = np.cumsum(place % 2 == 0) - 1
    return order[np.argsort(rng.permutation(int(pair[-1]) + 1)[pair], kind="stable")]


def _labels(
    labels: NDArray[np.int64], picked: NDArray[np.int64], partners: NDArray[np.int64] | None
) -> tuple[Tensor, Tensor | None]:
    """Those of the samples at `picked`, and of what is mixed into them; -1 for both where either has none."""
    own = torch.from_numpy(np.ascontiguousarray(labels[picked]))
    if partners is None:
        return own, None
    others = torch.from_numpy(np.ascontiguousarray(labels[partners]))
    return torch.where(others < 0, others, own), others
