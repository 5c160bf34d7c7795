"""Distillation losses, one file each: what the student is told beside, or in place of, the labels.

A loss file has `Options` (what a recipe may say of it), `loss(batch, options, state)`, which
gives a scalar, and, where it learns or remembers something itself, `state(options, shapes)`,
which gives a module. torch is imported inside the functions: a recipe is checked without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from edgekd.config import LossConfig, Strict, build
from edgekd.errors import UsageError, nearest
from edgekd.losses.common import Batch, LayerOptions, Shapes
from edgekd.user_code import check_call, function_of

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["LOSSES", "Batch", "LayerOptions", "Shapes", "check", "layers", "load", "needs", "options_of"]

LOSSES: Mapping[str, str] = {
    name: f"edgekd.losses.{name}"
    for name in (
        "cross_entropy",
        "kd",
        "mse",
        "huber",
        "dkd",
        "dist",
        "sigmoid_kd",
        "listwise",
        "pairwise_margin",
        "cosine",
        "hint",
        "attention",
        "similarity",
        "crd",
        "contrastive",
        "rkd_distance",
        "rkd_angle",
    )
}


# What samples without labels, or attacked ones, must not see: these speak of the true class.
OF_LABELS = ("cross_entropy", "dkd", "contrastive")
# These compare samples with each other: a batch is not taken apart for them.
BETWEEN_SAMPLES = ("dist", "similarity", "crd", "contrastive", "rkd_distance", "rkd_angle")
# These need no teacher.
OF_LABELS_ALONE = ("cross_entropy", "contrastive")


class LossFile(Protocol):
    """What a module in `LOSSES` offers; `state` is optional."""

    Options: type[Strict]

    def loss(self, batch: Batch, options: Any, state: nn.Module | None) -> Tensor:
        """A scalar."""


def check(config: LossConfig, where: str = "") -> Strict | None:
    """The options of a loss, checked without importing torch; None for a user's own function.

    `where` it stands in the recipe, for errors.

    Raises:
        UsageError: an unknown kind or option, or a value that it cannot have.
    """
    if ":" in config.kind:
        check_call(config.kind, "loss", config.options, given=1)
        return None
    return build(options_of(config.kind), config.options, f"{where} loss of kind {config.kind!r}".strip())


def layers(terms: Iterable[LossConfig], side: Literal["student", "teacher"]) -> tuple[str, ...]:
    """Module paths that losses name in the student or in the teacher, each once, in order."""
    named = (getattr(check(term), f"{side}_layer", None) for term in terms)
    return tuple(dict.fromkeys(path for path in named if path is not None))


def needs(terms: Iterable[LossConfig]) -> Literal["nothing", "outputs", "layers"]:
    """What losses ask of the teacher: nothing, its outputs (cached), or its layers (it runs along)."""
    if layers(terms, "teacher"):
        return "layers"
    return "nothing" if all(term.kind in OF_LABELS_ALONE for term in terms) else "outputs"


def options_of(kind: str) -> type[Strict]:
    """What a kind of `LOSSES` takes beside its weight."""
    if kind not in LOSSES:
        otherwise = f"known: {', '.join(LOSSES)}, or package.module:function"
        raise UsageError(f"unknown loss kind {kind!r}", hint=nearest(kind, LOSSES, otherwise))
    return _file(kind).Options


def load(config: LossConfig) -> tuple[Callable[..., Tensor], Callable[..., nn.Module] | None]:
    """The function of a loss, and the one that makes its state, if it has any.

    A user's own `package.module:function` is called with the batch and the recipe's options.
    """
    if ":" in config.kind:
        own = function_of(config.kind, "loss")
        return lambda batch, options, state: own(batch, **config.options), None
    file = _file(config.kind)
    return file.loss, getattr(file, "state", None)


def _file(kind: str) -> LossFile:
    return cast(LossFile, import_module(LOSSES[kind]))
