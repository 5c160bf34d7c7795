"""What `[prune]` and `[quantize]` of a recipe hold."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from edgekd.fields import Fraction, Positive, Strict
from edgekd.training_settings import DistillConfig


class SparseConfig(Strict):
    """Training that makes whole channels small (group lasso), before the first cut."""

    epochs: Positive = Field(description="passes over the training split, beside prune.epochs")
    strength: float = Field(default=1e-4, gt=0, description="of the penalty, beside losses of weight 1")


class WithinConfig(Strict):
    """Counts that a network pruned to a latency keeps to besides: of convolutions and linear layers."""

    macs: Positive | None = Field(default=None, description="multiply-accumulates of one sample")
    params: Positive | None = Field(default=None, description="weights and biases, batch norms folded in")
    size_bytes: Positive | None = Field(
        default=None, description="of those, as the targets' scheme stores them; a file has a graph besides"
    )

    @model_validator(mode="after")
    def _some(self) -> WithinConfig:
        if not self.model_dump(exclude_none=True):
            raise ValueError("names no limit: give macs, params or size_bytes")
        return self


class PruneConfig(DistillConfig):
    """Structured pruning to a goal, then recovery that distils from the same teacher."""

    goal: Literal["latency_ms", "macs", "params", "size_bytes", "nonzero_weights"] = Field(
        description="what to bring down; latency_ms: what a target's own runtime takes, by a table of layers "
        "that is measured where it is missing; targets with other clocks get other networks; "
        "size_bytes: what weights and biases take in the target's scheme, without graph and scales; "
        "nonzero_weights: single weights become zero, which makes only compressed files smaller"
    )
    pattern: Literal["unstructured", "2:4"] = Field(
        default="unstructured",
        description="of the weights that become zero (goal nonzero_weights): the smallest, or two of every "
        "four along the input channels; 2:4 takes neither keep nor limit",
    )
    keep: Fraction | None = Field(default=None, description="goal as a fraction of the student's own")
    limit: float | None = Field(default=None, gt=0, description="goal as an absolute number")
    within: WithinConfig | None = Field(
        default=None, description="{ size_bytes = 80_000 }: further limits (goal latency_ms)"
    )
    importance: Literal["l1", "l2", "bn_scale", "taylor", "activation", "random"] = Field(
        default="l2",
        description="of a channel: the norm of its weights, BatchNorm's factor, the first-order change "
        "of the loss, what flows through it, or chance, as a control",
    )
    scope: Literal["global", "layer", "isomorphic"] = Field(
        default="global",
        description="whose channels are ranked with each other (goals that are counted): all, those of one "
        "group of layers, or those of groups of the same make (Fang et al. 2024, arXiv 2407.04616)",
    )
    max_pruning_ratio: float = Field(
        default=0.7, gt=0, lt=1, description="at most this share of any one group"
    )
    ignored_layers: tuple[str, ...] = Field(default=(), strict=False, description="module paths left alone")
    rounds: Positive = Field(
        default=1,
        description="steps to the goal, each as large as the others, with a share of the epochs and a "
        "schedule of its own",
    )
    sparse: SparseConfig | None = Field(default=None, description="{ epochs = 4, strength = 1e-4 }")
    remove_blocks: bool = Field(
        default=False,
        description="residual blocks that keep the shape may go whole (goal latency_ms)",
    )
    latency_tables: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="files that edgekd profile --output wrote on targets that this computer is not "
        "(goal latency_ms)",
    )
    stand_in: bool = Field(
        default=False,
        description="targets that this computer is not, and that no table is given for, are pruned by this "
        "computer's clock (goal latency_ms)",
    )

    @model_validator(mode="after")
    def _one_goal(self) -> PruneConfig:
        for key in ("remove_blocks", "within", "latency_tables", "stand_in"):
            if getattr(self, key) and self.goal != "latency_ms":
                raise ValueError(f'prune.{key} goes with goal = "latency_ms", not {self.goal!r}')
        if self.scope != "global" and self.goal == "latency_ms":
            raise ValueError(
                f'prune.scope = {self.scope!r} goes with goals that are counted, not "latency_ms"'
            )
        if self.rounds > self.epochs:
            raise ValueError(f"prune.rounds = {self.rounds} are more than prune.epochs = {self.epochs}")
        given = (self.keep is not None) + (self.limit is not None)
        if self.pattern == "2:4" and (given or self.rounds > 1):
            raise ValueError(
                'prune.pattern = "2:4" says what is kept: leave prune.keep, limit and rounds out'
            )
        if self.pattern != "2:4" and given != 1:
            raise ValueError("give exactly one of prune.keep and prune.limit")
        return self

    @model_validator(mode="after")
    def _of_single_weights(self) -> PruneConfig:
        single = self.goal == "nonzero_weights"
        if self.pattern != "unstructured" and not single:
            raise ValueError(
                f'prune.pattern = {self.pattern!r} goes with goal = "nonzero_weights", not {self.goal!r}'
            )
        if single and (self.importance not in ("l1", "l2", "random") or self.scope == "isomorphic"):
            raise ValueError(
                "prune: single weights are ranked by their size (importance l1 or l2; random as a control), "
                'with scope "global" or "layer"'
            )
        fixed = self.importance == "random" or self.scope != "global"
        if self.pattern == "2:4" and (fixed or self.max_pruning_ratio != 0.7):
            raise ValueError(
                'prune.pattern = "2:4" keeps the two largest of every four: leave importance, scope and '
                "max_pruning_ratio out"
            )
        if single and self.sparse is not None:
            raise ValueError("prune.sparse makes whole channels small: it does not go with nonzero_weights")
        return self


class QuantizeConfig(DistillConfig):
    """How targets with the scheme static_wi8_ai8 get their scales; targets choose the scheme."""

    method: Literal["qat", "ptq"] = Field(description="train with fake quantizers, or calibrate only")
    epochs: Positive = Field(default=2, description="passes over the training split (qat)")
    optimizer: Literal["sgd", "adamw", "muon"] = Field(
        default="adamw", description="sgd collapses easily here"
    )
    lr: float = Field(default=2e-4, gt=0, description="peak learning rate")
    weight_decay: float = Field(
        default=0.0, ge=0, description="as in training; per-channel scales (four dimensions) decay too"
    )
    grad_clip: float | None = Field(default=1.0, gt=0, description="largest gradient norm")
    learn_from: Literal["teacher", "student", "both"] = Field(
        default="teacher",
        description="whose outputs the losses compare with (qat): the teacher's, the float student's, or the "
        "mean of both's probabilities",
    )
    ranges: Literal["learned", "fixed"] = Field(
        default="learned",
        description="what quantizers span: trained along (Esser et al. 2020, arXiv 1902.08153), or as "
        "calibrated",
    )
    sensitivity: bool = Field(
        default=False, description="measure what each layer costs that alone is in 8 bits, for the report"
    )
    float_layers: tuple[str, ...] = Field(
        default=(), strict=False, description="module paths of convolutions and linear layers left in float"
    )
    float_weights: Literal["fp32", "fp16"] = Field(
        default="fp32",
        description="how layers left in float are stored: fp16 halves their size, not their time",
    )
    max_val_drop_pp: float | None = Field(
        default=None,
        ge=0,
        description="where the accuracy on val (or gate.metric, if that is another percentage) falls by more "
        "than that from the float student's, layers go back to float until it does not: those that take the "
        "least time, by tables of the targets' runtimes",
    )
    max_val_drop: float | None = Field(
        default=None, ge=0, description="the same for a gate.metric that is no percentage, in its unit"
    )

    @property
    def chooses_floats(self) -> bool:
        """Whether layers go back to float where too much is lost on val."""
        return self.max_val_drop_pp is not None or self.max_val_drop is not None

    @model_validator(mode="after")
    def _consistent(self) -> QuantizeConfig:
        if self.max_val_drop_pp is not None and self.max_val_drop is not None:
            raise ValueError("give one of quantize.max_val_drop_pp and max_val_drop")
        if self.float_weights != "fp32" and not self.float_layers and not self.chooses_floats:
            raise ValueError(
                "quantize.float_weights is about layers left in float: give float_layers or max_val_drop_pp"
            )
        if self.learn_from != "teacher" and self.method == "ptq":
            raise ValueError(f'quantize.learn_from = {self.learn_from!r} goes with method = "qat", not "ptq"')
        return self
