"""What trainings ask of whoever teaches them, as nodes of a plan."""

from __future__ import annotations

from typing import Any

from edgekd import losses
from edgekd.config import DistillConfig, QuantizeConfig
from edgekd.errors import UsageError
from edgekd.nodes import BOTH, Builder
from edgekd.sources import hashes_of

OUTPUTS_ONLY = ("file", "ensemble")


def own_losses(builder: Builder, config: DistillConfig) -> dict[str, Any]:
    """What the user's own losses are made of: another formula is another training."""
    own = [term for term in config.losses if ":" in term.kind]
    read = [hashes_of(term.kind, "loss", term.options, builder.store) for term in own]
    return {"own_losses": read} if own else {}


def told(builder: Builder, config: DistillConfig, data: str, teacher: str | None) -> dict[str, str | None]:
    """What the losses ask of the teacher: the network, a cache of outputs (stages share it), or nothing."""
    needed = losses.needs(config.losses)
    elsewhere = teacher is not None and builder.nodes[teacher].config.get("modality") is not None
    if elsewhere and needed != "nothing" and config.mix.cutmix is not None:
        raise UsageError(
            "mix.cutmix pastes parts of the student's images, and the teacher looks at another modality",
            hint="use mixup, which blends both alike",
        )
    if needed != "outputs":
        if needed == "layers" and teacher is not None and builder.nodes[teacher].stage in OUTPUTS_ONLY:
            raise UsageError(
                "a loss names layers of the teacher, which is no network",
                hint="use losses on outputs (kd, dkd, dist, mse), or give the teacher as a network",
            )
        return {"teacher": teacher} if needed == "layers" else {}
    mixed = {name: alpha for name, alpha in config.mix.model_dump().items() if alpha is not None}
    assert teacher is not None  # who else would give outputs
    augment = [] if elsewhere else list(config.augment)
    views = config.views if augment or mixed else 1
    unlabelled = config.unlabelled_weight is not None
    settings = {
        "augment": augment,
        "mix": config.mix.model_dump(),
        "views": views,
        "unlabelled": unlabelled,
        "precision": config.precision,
    }
    names = [*augment, *(f"{name}_{alpha!r}" for name, alpha in mixed.items())]
    names += ["unlabelled"] if unlabelled else []
    names += [config.precision] if config.precision != "auto" else []
    label = f"{teacher}-outputs" + "".join(f"-{name}" for name in names) + f"-{views}"
    return {"outputs": builder.add(label, "outputs", settings, {"data": data, "teacher": teacher})}


def taught_by(
    builder: Builder, config: QuantizeConfig, data: str, teacher: str | None, network: str
) -> str | None:
    """Who tells QAT what to say."""
    if config.learn_from == "teacher":
        return teacher
    if (needed := losses.needs(config.losses)) != "outputs":
        on = "labels" if needed == "nothing" else "layers"
        raise UsageError(
            f"quantize.learn_from = {config.learn_from!r} goes with losses on outputs, not on {on}",
            hint="use kd, dkd, dist or mse",
        )
    if config.learn_from == "student":
        return network
    if teacher is None or builder.nodes[teacher].config.get("modality") is not None:
        raise UsageError(
            'quantize.learn_from = "both" needs a teacher that looks at what the student looks at',
            hint='learn_from = "student" needs none',
        )
    weighed = {"combine": "probabilities", "weights": "equal", "modality": None}
    members = {"data": data, "member1": teacher, "member2": network}
    return builder.add(f"{BOTH}{network}", "ensemble", weighed, members)
