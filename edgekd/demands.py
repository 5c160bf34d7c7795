"""What a recipe asks of its data: refused once the samples are read, before hours of training.

A plan is made without reading a sample, so it cannot know these.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgekd import losses
from edgekd.config import DistillConfig, LabelTrainConfig, Recipe, TrainConfig
from edgekd.errors import UsageError, nearest
from edgekd.types import VECTOR, Task

# Losses that read outputs as scores of classes.
_OF_CLASSES = ("cross_entropy", "kd", "dkd", "dist", "sigmoid_kd", "listwise", "pairwise_margin")


def check(recipe: Recipe, task: Task) -> None:
    """Nothing where every training of the recipe can be done on the task.

    Raises:
        UsageError: the task lacks a modality, a split, labels or a head that the recipe names, or has
            samples that a setting does not go with; it names the table and the remedy.
    """
    modality = recipe.teacher.modality if recipe.teacher is not None else None
    if modality is not None and modality not in task.modalities:
        raise UsageError(
            f"teacher.modality = {modality!r}: the task has no such modality",
            hint=nearest(modality, task.modalities, f"it has: {', '.join(task.modalities) or 'none'}"),
        )
    seen = task if modality is None else task.seen_as(modality)
    if task.vector:
        _check_vector(recipe)
    for table, train in _teachers(recipe):
        _check_samples(table, train, seen)
        if task.splits["train"].labels is None:
            raise UsageError(
                f"{table} cannot be done: the split 'train' has no labels",
                hint="give a teacher that is trained already",
            )
    for table, distill in _students(recipe):
        _check_samples(table, distill, task)
        _check_splits(table, distill, task)
        _check_losses(table, distill, task)


def _check_vector(recipe: Recipe) -> None:
    own = "lie in spaces of their own, and have no mean"
    if recipe.teacher is not None and recipe.teacher.members:
        raise UsageError(
            f"teacher.members: vectors of several networks {own}",
            hint="give one teacher, or leave out task.vector",
        )
    if recipe.teacher is not None and recipe.teacher.outputs == "probabilities":
        raise UsageError(
            'teacher.outputs = "probabilities": a vector has none, and stands in the same outputs',
            hint="give a teacher of logits, or leave out task.vector",
        )
    if recipe.quantize is not None and recipe.quantize.learn_from == "both":
        raise UsageError(
            f'quantize.learn_from = "both": vectors of teacher and student {own}',
            hint='"teacher", or "student"',
        )


def _teachers(recipe: Recipe) -> Iterator[tuple[str, LabelTrainConfig]]:
    if recipe.teacher is None:
        return
    if recipe.teacher.train is not None:
        yield "[teacher.train]", recipe.teacher.train
    for i, member in enumerate(recipe.teacher.members, start=1):
        if member.train is not None:
            yield f"train of teacher.members {i}", member.train


def check_losses(recipe: Recipe) -> None:
    """Nothing where each loss of the recipe is known and takes what is said of it; no data are needed.

    Raises:
        UsageError: it names the table, and which of its losses.
    """
    for table, distill in _students(recipe):
        for i, term in enumerate(distill.losses):
            losses.check(term, f"{table} losses.{i}:")


def _students(recipe: Recipe) -> Iterator[tuple[str, DistillConfig]]:
    for i, assistant in enumerate(recipe.assistants, start=1):
        yield f"distill of assistants {i}", assistant.distill
    if recipe.distill is not None:
        yield "[distill]", recipe.distill
    if recipe.prune is not None:
        yield "[prune]", recipe.prune
    if recipe.quantize is not None and recipe.quantize.method == "qat":
        yield "[quantize]", recipe.quantize


def _check_samples(table: str, train: TrainConfig, task: Task) -> None:
    shape = task.input_spec.shape
    words = "words" in train.augment
    if words and "vocabulary" not in task.notes:
        raise UsageError(f'{table} augment = ["words"] works on texts', hint="leave it out")
    on_images = bool(train.augment) and not (words and len(train.augment) == 1)
    for name, wanted in (("augment", on_images), ("mix.cutmix", train.mix.cutmix is not None)):
        if wanted and len(shape) != 3:
            raise UsageError(
                f"{table} {name} works on images, samples here have shape {shape}", hint=f"leave {name} out"
            )
    for name, wanted in (("mix", bool(train.mix)), ("adversarial", train.adversarial is not None)):
        if wanted and task.input_spec.of_ids:
            raise UsageError(
                f"{table} {name} does arithmetic with inputs, which are ids here", hint=f"leave {name} out"
            )
    for name, wanted, why in (
        ("mix", bool(train.mix), "blends samples, whose vector is then that of no thing"),
        ("adversarial", train.adversarial is not None, "attacks classes, and a vector is judged too"),
    ):
        if task.vector and wanted:
            raise UsageError(f"{table} {name} {why}", hint=f"leave {name} out, or task.vector")


def _check_splits(table: str, distill: DistillConfig, task: Task) -> None:
    unlabelled = "give one (npz: the array unlabelled_x; image_folder: unlabelled), or leave it out"
    if distill.unlabelled_weight is not None:
        if task.splits["train"].labels is None:
            raise UsageError(
                f"{table} unlabelled_weight is set, and train has no labels either",
                hint="leave it out: without labels all samples weigh the same",
            )
        if "unlabelled" not in task.splits:
            raise UsageError(
                f"{table} unlabelled_weight is set, and the task has no split 'unlabelled'", hint=unlabelled
            )
    split = distill.reestimate_batch_norm
    if split is not None and split not in task.splits:
        raise UsageError(
            f"{table} reestimate_batch_norm = {split!r}: the task has no such split", hint=unlabelled
        )


def _check_losses(table: str, distill: DistillConfig, task: Task) -> None:
    of_labels = [loss.kind for loss in distill.losses if loss.kind in losses.OF_LABELS]
    if of_labels and task.splits["train"].labels is None:
        raise UsageError(
            f"{table} the loss {of_labels[0]!r} needs labels, and the split 'train' has none",
            hint="use losses on the teacher's outputs alone (kd, dist, mse)",
        )
    named = [loss.head for loss in distill.losses if loss.head is not None]
    heads = [head for head in task.parts if head]
    for head in named:
        if head not in heads:
            raise UsageError(
                f"{table} a loss names the head {head!r}, which the task has not",
                hint=nearest(head, heads, f"it has: {', '.join(heads) or 'one head only'}"),
            )
    for loss in distill.losses:
        if loss.head == VECTOR and loss.kind in _OF_CLASSES:
            raise UsageError(
                f"{table} the loss {loss.kind!r} is about classes, a vector has none",
                hint="contrastive is about labels; cosine, mse, rkd_distance and rkd_angle about the teacher",
            )
    for head in heads:
        if head not in named:
            raise UsageError(
                f"{table} no loss is about the head {head!r}: it would be left to chance",
                hint=f'give it one: {{ kind = "kd", head = "{head}" }}',
            )
