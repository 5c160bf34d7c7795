"""What a release is held to: the policy of the gate, as a recipe, a target or a policy file has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from edgekd.errors import UsageError
from edgekd.fields import Positive, Strict
from edgekd.metric_names import metric_named
from edgekd.types import SAMPLE, Metric

# A margin too small for any test set to decide is a slip, and so is a level.
PercentagePoints = Annotated[float, Field(ge=1e-4, lt=100)]
OwnUnit = Annotated[float, Field(ge=1e-9, le=1e9)]
Share = Annotated[float, Field(ge=1e-6, lt=1)]
MARGINS = ("max_drop_pp", "max_drop", "max_relative_drop")


class BudgetConfig(Strict):
    """What an artifact may cost on the target; leave out what is not limited."""

    size_bytes: Positive | None = Field(default=None, description="all files together")
    latency_ms_p90: float | None = Field(default=None, gt=0, description="90th percentile")
    peak_memory_bytes: Positive | None = Field(
        default=None, description="high-water mark of a process that only runs the file"
    )


class SliceConfig(Strict):
    """What every part of the test split with one value in a column is held to."""

    max_drop_pp: PercentagePoints | None = Field(
        default=None, description="margin of each slice, percentage points"
    )
    max_drop: OwnUnit | None = Field(
        default=None, description="margin of each slice, in the unit of a metric that is no percentage"
    )
    min_slice_n: Positive = Field(
        default=100, description="samples, or queries, below which a slice shows nothing: INCONCLUSIVE"
    )
    mandatory: bool = Field(
        default=True, description="whether all slices must pass; others raise alarms, together (Holm)"
    )
    values: tuple[str, ...] = Field(
        default=(), strict=False, description="values that must be there: one without samples is INCONCLUSIVE"
    )


class TargetGateConfig(Strict):
    """What a target asks of its own file, in place of what the recipe's gate says."""

    max_drop_pp: PercentagePoints | None = Field(
        default=None, description="margin, percentage points: of accuracy, top_K and hit@K"
    )
    max_drop: OwnUnit | None = Field(default=None, description="margin of other metrics, in their own unit")
    max_relative_drop: Share | None = Field(
        default=None, description="margin as a share of the teacher's value"
    )
    max_negative_flip_rate: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="bound on the share of samples that the teacher has right and the file wrong",
    )
    min_int8_share: float | None = Field(
        default=None, ge=0, le=1, description="share of computing operators that must run in int8"
    )
    int8_beats_float: bool | None = Field(
        default=None, description="whether an int8 file must be faster than its own float file"
    )
    slices: Mapping[str, SliceConfig] = Field(
        default_factory=dict, description="column -> what its slices are held to"
    )

    def without_margin(self) -> Self:
        """Where another margin is asked for all targets."""
        return self.model_copy(update=dict.fromkeys(MARGINS))


class GateConfig(Strict):
    """When an artifact may ship."""

    metric: str = Field(
        default="accuracy",
        description="what may fall: accuracy, top_5, f1_macro, auc, ndcg@10, nearest_hit@1 ...",
    )
    max_drop_pp: PercentagePoints | None = Field(
        default=None,
        description="margin of the non-inferiority test, percentage points: of accuracy, top_K and hit@K",
    )
    max_drop: OwnUnit | None = Field(default=None, description="margin of other metrics, in their own unit")
    max_relative_drop: Share | None = Field(
        default=None, description="margin as a share of the teacher's value: 0.02 keeps 98%"
    )
    alpha: float = Field(
        default=0.05, ge=1e-6, lt=0.5, description="one-sided error of a wrong PASS at the margin"
    )
    spend_alpha: bool = Field(
        default=False,
        description="whether the k-th judgement of a test split is made at alpha / (k (k + 1)): then all of "
        "them together pass a bad candidate with probability alpha at most",
    )
    query: str | None = Field(
        default=None,
        description="the column of queries, for ndcg@K and hit@K; sample_id: every sample is a list of its "
        "own, whose outputs are ranked, and whose label is what is looked for; for nearest_...: the column "
        "whose equal values say that samples are the same thing",
    )
    cluster: str | None = Field(
        default=None,
        description="the column of what samples come in (user, scene): its flips are not independent",
    )
    max_negative_flip_rate: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="bound on the share of samples that the teacher has right and the file wrong",
    )
    min_int8_share: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="share of computing operators that must run in int8 in an int8 file",
    )
    int8_beats_float: bool = Field(
        default=True,
        description="whether an int8 file must be faster than its own float file, timed on the target: a "
        "network of a few dozen weights takes as long in either",
    )
    slices: Mapping[str, SliceConfig] = Field(
        default_factory=dict, description="column -> what its slices are held to; label is the class"
    )
    expected_discordance: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of samples on which one of teacher and file is right, as seen on validation: "
        "tells beforehand whether mandatory slices can pass",
    )
    why: str = Field(default="", description="why this margin, printed with the verdict")

    @model_validator(mode="after")
    def _one_margin(self) -> GateConfig:
        try:
            percent = metric_named(self.metric).unit == "percent"
        except UsageError as error:
            raise ValueError(str(error)) from None
        own = "max_drop_pp" if percent else "max_drop"
        given = [n for n in MARGINS if getattr(self, n) is not None]
        if given not in ([own], ["max_relative_drop"]):
            raise ValueError(
                f"the margin of {self.metric} is {own}, or max_relative_drop; "
                + (f"here stand {' and '.join(given)}" if given else "here is neither")
            )
        for column, asked in self.slices.items():
            if getattr(asked, own) is None or (asked.max_drop_pp is not None and asked.max_drop is not None):
                raise ValueError(f"slices.{column}: the margin of {self.metric} is {own}")
        # Every candidate is within a margin as wide as the metric's whole range.
        margins = {"": self.max_drop, **{f"slices.{name}: ": s.max_drop for name, s in self.slices.items()}}
        for name, margin in margins.items():
            if self.metric != "rmse" and margin is not None and margin >= 1:
                raise ValueError(f"{name}max_drop = {margin:g}: {self.metric} lies between 0 and 1")
        if "@" not in self.metric and self.query is not None:
            raise ValueError(f"query goes with ndcg@K and hit@K, not with {self.metric}")
        if "@" in self.metric and self.query is None:
            raise ValueError(f"{self.metric} ranks the rows of a query: name their column, query = ...")
        if self.metric.startswith("nearest_"):
            if self.cluster is None:
                raise ValueError(
                    f"{self.metric}: samples of the same thing are found or missed together: name their "
                    f"column, or a coarser one, cluster = {self.query!r}"
                )
            if self.query == SAMPLE:
                raise ValueError(f"query = {SAMPLE!r}: for {self.metric} it says which samples are alike")
            if self.slices:
                raise ValueError(f"slices: {self.metric} looks among all samples, and has no slices")
        if self.cluster == "label":
            raise ValueError('cluster = "label": the samples of a class are no cluster')
        if self.cluster is not None and self.max_negative_flip_rate is not None:
            raise ValueError("max_negative_flip_rate: flips of clusters have no exact bound")
        if self.metric == "auc" and (self.cluster is not None or self.max_relative_drop is not None):
            raise ValueError("auc is judged by samples and absolutely: no cluster, no max_relative_drop")
        share = self.metric == "accuracy" or self.metric.startswith("top_")
        needed = share and self.cluster is None and any(asked.mandatory for asked in self.slices.values())
        if needed and self.expected_discordance is None:
            raise ValueError(
                "mandatory slices need expected_discordance: it tells beforehand whether they can pass"
            )
        return self

    def on(self, target: TargetGateConfig) -> Self:
        """The policy with what a target's profile says in its place.

        Raises:
            ValidationError: the target's margin is not one of this policy's metric.
        """
        given = {k: v for k, v in target.model_dump().items() if v is not None and v != {}}
        data = self.model_dump()
        if given.keys() & set(MARGINS):
            data.update(dict.fromkeys(MARGINS))
        given["slices"] = {**data["slices"], **given.get("slices", {})}
        return type(self).model_validate({**data, **given})

    def spent(self, judgement: int) -> Self:
        """The policy at the level that is left for the k-th judgement of a test split, counted from 1."""
        if not self.spend_alpha:
            return self
        # 1/2 + 1/6 + 1/12 + ... = 1: however many judgements there will be.
        return self.model_copy(update={"alpha": self.alpha / (judgement * (judgement + 1))})

    @property
    def judged(self) -> Metric:
        """The metric itself."""
        return metric_named(self.metric)

    @property
    def margin(self) -> float:
        """A fraction of samples for percentages, or of the teacher's value; else in the metric's unit."""
        if self.max_relative_drop is not None:
            return self.max_relative_drop
        return _as_fraction(self.max_drop_pp, self.max_drop)

    @property
    def margin_text(self) -> str:
        """`1 pp of accuracy`, `0.02 of ndcg@10`, `2% of the teacher's auc`."""
        if self.max_relative_drop is not None:
            return f"{100 * self.max_relative_drop:g}% of the teacher's {self.metric}"
        own = f"{self.max_drop_pp:g} pp" if self.max_drop_pp is not None else f"{self.max_drop:g}"
        return f"{own} of {self.metric}"

    def margin_of(self, column: str) -> float:
        """The margin of a column's slices, as `margin`."""
        return _as_fraction(self.slices[column].max_drop_pp, self.slices[column].max_drop)


class PolicyGate(GateConfig):
    """A policy in a file of its own: whose verdict counts, and budgets in place of the targets' own."""

    required_targets: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="targets that the overall verdict covers; left out: the recipe's",
    )
    budgets: Mapping[str, BudgetConfig] = Field(
        default_factory=dict, description="target -> what an artifact may cost there; left out: the target's"
    )
    max_latency_ratio: float | None = Field(
        default=None, gt=0, description="median and p90 over those of the report given by --baseline-report"
    )
    max_size_ratio: float | None = Field(
        default=None, gt=0, description="bytes over those of the report given by --baseline-report"
    )


class PolicyFile(Strict):
    """A file for `edgekd gate --policy`."""

    gate: PolicyGate = Field(description="the verdict")


def _as_fraction(percentage_points: float | None, own: float | None) -> float:
    if percentage_points is not None:
        return percentage_points / 100
    assert own is not None  # one of them is there: `_one_margin`
    return own
