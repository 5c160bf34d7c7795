"""What a recipe may say of a training: of the loop, of the losses, of what is done to samples."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from edgekd.fields import Plugin, Positive, Scheduled, Strict, value_at


class MixConfig(Strict):
    """Mixing of samples in pairs, labels and the teacher's view alike; of both, each sample draws one."""

    mixup: float | None = Field(default=None, gt=0, description="alpha of the share: blend two samples")
    cutmix: float | None = Field(
        default=None, gt=0, description="alpha of the area: paste a box of another image"
    )

    def __bool__(self) -> bool:
        """Whether anything is mixed."""
        return self.mixup is not None or self.cutmix is not None


class AdversarialConfig(Strict):
    """Attacks by PGD to train against.

    With a teacher, losses on its outputs see the attacked sample and those on labels the clean one (ARD:
    Goldblum et al. 2019, arXiv 1905.09747); without one, all see the attacked.
    """

    epsilon: float = Field(gt=0, le=1, description="largest change of a value, as a share of the raw range")
    steps: Positive = Field(default=7, description="of the attack in training; robust accuracy takes 20")


class TrainConfig(Strict):
    """One training run."""

    epochs: Positive = Field(description="passes over the training split")
    batch_size: Positive = Field(default=128, description="samples a step")
    optimizer: Literal["sgd", "adamw", "muon"] = Field(
        default="sgd", description="sgd has Nesterov momentum 0.9; muon learns convolutions in fewer epochs"
    )
    lr: float = Field(default=0.05, gt=0, description="peak learning rate")
    weight_decay: float = Field(
        default=5e-4,
        ge=0,
        description="of tensors of two dimensions or more; L2, or decoupled (adamw, muon's kernels)",
    )
    schedule: Literal["cosine", "one_cycle"] = Field(
        default="cosine", description="cosine: linear warm-up, then to zero; one_cycle: up for 30%, then down"
    )
    warmup_epochs: float = Field(default=1.0, ge=0, description="of the schedule cosine")
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="keep the moving average of the weights instead of the last ones",
    )
    grad_clip: float | None = Field(default=None, gt=0, description="largest gradient norm")
    augment: tuple[Literal["crop", "flip", "erase", "words"], ...] = Field(
        default=(),
        strict=False,
        description="of images: shift by up to 2 pixels in 28, mirror, a bare rectangle in every other one; "
        "of texts: words, 15% of them others",
    )
    mix: MixConfig = Field(default=MixConfig(), description="mixup, cutmix or both")
    adversarial: AdversarialConfig | None = Field(
        default=None, description="train on attacked samples, and report the accuracy on such"
    )
    patience: Positive | None = Field(
        default=None,
        description="stop after so many epochs without a better accuracy (or gate.metric) on val, and keep "
        "the best weights",
    )
    on_nan: Literal["stop", "halve_lr"] = Field(
        default="stop",
        description="halve_lr: go back to the last good epoch with half the rate, three times at most",
    )
    precision: Literal["auto", "bf16-mixed", "32-true"] = Field(
        default="auto", description="auto: bf16 where the processor gains from it"
    )


class LabelTrainConfig(TrainConfig):
    """Training on labels alone."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="for the cross-entropy")
    seed: int | None = Field(
        default=None, ge=0, description="of order and initial weights; left out: the recipe's"
    )


class LossConfig(Plugin):
    """One term of the loss. Further keys are its own (see `edgekd schema KIND`)."""

    weight: Scheduled = Field(default=1.0, description="a number, or start, end and shape of its schedule")
    head: str | None = Field(
        default=None, description="of a task with several: whose outputs and labels; left out: what is judged"
    )


class DistillConfig(TrainConfig):
    """Training on what the teacher says, by a weighted sum of losses."""

    losses: tuple[LossConfig, ...] = Field(
        default=(
            LossConfig(kind="cross_entropy", weight=0.1),
            LossConfig.model_validate({"kind": "kd", "weight": 0.9, "temperature": 4.0}),
        ),
        strict=False,
        min_length=1,
        description="what is added up",
    )
    weighting: Literal["fixed", "uncertainty", "gradient_norm"] = Field(
        default="fixed", description="fixed: by the weights as they are; else they are adapted on top"
    )
    views: Positive = Field(
        default=1, description="augmented views a sample that the teacher sees and caches"
    )

    unlabelled_weight: float | None = Field(
        default=None,
        gt=0,
        description="take the task's split `unlabelled` along: what its samples weigh beside labelled ones",
    )
    reestimate_batch_norm: Literal["train", "unlabelled"] | None = Field(
        default=None,
        description="split on which batch norms take their statistics anew afterwards, as it is deployed",
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        description="of order and initial weights; left out: the recipe's. Data, teacher and its views stay",
    )

    @model_validator(mode="after")
    def _some_weight(self) -> DistillConfig:
        for progress, when in ((0.0, "at the start"), (1.0, "at the end")):
            if not any(value_at(loss.weight, progress) for loss in self.losses):
                raise ValueError(f"the weights of all losses are 0 {when}")
        if self.mix and any(loss.kind == "dkd" for loss in self.losses):
            raise ValueError("the loss dkd is about one true class: it does not go with mix")
        return self
