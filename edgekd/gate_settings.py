"""What a release is held to: the policy of the gate, as a recipe, a target or a policy file has it."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, model_validator

from edgekd.errors import UsageError
from edgekd.fields import Positive, Strict
from edgekd.metric_names import metric_named
from edgekd.types import Metric


class BudgetConfig(Strict):
    """What an artifact may cost on the target; leave out what is not limited."""

    size_bytes: Positive | None = Field(default=None, description="all files together")
    latency_ms_p90: float | None = Field(default=None, gt=0, description="90th percentile")
    peak_memory_bytes: Positive | None = Field(
        default=None, description="high-water mark of a process that only runs the file"
    )


class SliceConfig(Strict):
    """What every part of the test split with one value in a column is held to."""

    max_drop_pp: float | None = Field(
        default=None, gt=0, lt=100, description="margin of each slice, percentage points"
    )
    max_drop: float | None = Field(
        default=None, gt=0, description="margin of each slice, in the unit of a metric that is no percentage"
    )
    min_slice_n: Positive = Field(
        default=100, description="samples below which a slice shows nothing: INCONCLUSIVE"
    )
    mandatory: bool = Field(
        default=True, description="whether all slices must pass; others raise alarms, together (Holm)"
    )
    values: tuple[str, ...] = Field(
        default=(), strict=False, description="values that must be there: one without samples is INCONCLUSIVE"
    )


class GateConfig(Strict):
    """When an artifact may ship."""

    metric: str = Field(
        default="accuracy", description="what may fall: accuracy, top_5, f1_macro, auc, ndcg@10 ..."
    )
    max_drop_pp: float | None = Field(
        default=None,
        gt=0,
        lt=100,
        description="margin of the non-inferiority test, percentage points: of accuracy, top_K and hit@K",
    )
    max_drop: float | None = Field(
        default=None, gt=0, description="margin of other metrics, in their own unit"
    )
    max_relative_drop: float | None = Field(
        default=None, gt=0, lt=1, description="margin as a share of the teacher's value: 0.02 keeps 98%"
    )
    alpha: float = Field(
        default=0.05, gt=0, lt=0.5, description="one-sided error of a wrong PASS at the margin"
    )
    query: str | None = Field(default=None, description="the column of queries, for ndcg@K and hit@K")
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
        given = [n for n in ("max_drop_pp", "max_drop", "max_relative_drop") if getattr(self, n) is not None]
        if given not in ([own], ["max_relative_drop"]):
            raise ValueError(
                f"the margin of {self.metric} is {own}, or max_relative_drop; "
                + (f"here stand {' and '.join(given)}" if given else "here is neither")
            )
        for column, asked in self.slices.items():
            if getattr(asked, own) is None or (asked.max_drop_pp is not None and asked.max_drop is not None):
                raise ValueError(f"slices.{column}: the margin of {self.metric} is {own}")
        if "@" not in self.metric and self.query is not None:
            raise ValueError(f"query goes with ndcg@K and hit@K, not with {self.metric}")
        if "@" in self.metric and self.query is None:
            raise ValueError(f"{self.metric} ranks the rows of a query: name their column, query = ...")
        share = self.metric == "accuracy" or self.metric.startswith("top_")
        needed = share and self.cluster is None and any(asked.mandatory for asked in self.slices.values())
        if needed and self.expected_discordance is None:
            raise ValueError(
                "mandatory slices need expected_discordance: it tells beforehand whether they can pass"
            )
        return self

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


class PolicyFile(Strict):
    """A file for `edgekd gate --policy`."""

    gate: PolicyGate = Field(description="the verdict")


def _as_fraction(percentage_points: float | None, own: float | None) -> float:
    if percentage_points is not None:
        return percentage_points / 100
    assert own is not None  # one of them is there: `_one_margin`
    return own
