"""Two reports side by side: what got better or worse, beyond noise or not.

It informs and judges nothing: a release is judged against the frozen teacher, since one that is compared
with the last release only may lose a little each time. No figure is compared that was not taken alike; then
it says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edgekd import gate
from edgekd.comparing_timings import Side, content, latency, memory, then_and_now
from edgekd.errors import DataError
from edgekd.metric_names import metric_named
from edgekd.report import words
from edgekd.report.compared import ALPHA, Change, Comparison, Ends, TargetChange, Word
from edgekd.report.hosts import host_differences, machine_of
from edgekd.report.schema import ArtifactRecord, Report, parse
from edgekd.report.verdicts import verdict_of
from edgekd.stored import read_predictions, read_teacher
from edgekd.types import ACCURACY, Drop, Metric, Predictions, Status

RANK = {Status.FAIL: 0, Status.INCONCLUSIVE: 1, Status.PASS: 2}


def open_side(path: Path) -> Side:
    """A report.json, or the folder that it lies in.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    file = path / "report.json" if path.is_dir() else path
    return Side(parse(file), file.parent)


def compare(old_path: Path, new_path: Path) -> Comparison:
    """Compares two reports, target by target.

    Raises:
        UsageError: a path that holds no report.
        DataError: predictions or timings that changed since their report was written.
    """
    old, new = open_side(old_path), open_side(new_path)
    there, here = words.targets(old.report), words.targets(new.report)
    both = [t for t in here if t in there]
    metric = words.primary(new.report).name
    cautions = _cautions(old.report, new.report)
    return Comparison(
        old=old.report.recipe.name,
        new=new.report.recipe.name,
        old_status=old.report.verdict.status,
        new_status=new.report.verdict.status,
        metric=metric,
        cautions=tuple(cautions.values()),
        cautioned=tuple(cautions),
        targets=tuple(_target(old, new, t, metric) for t in both),
        only_old=tuple(t for t in there if t not in here),
        only_new=tuple(t for t in here if t not in there),
    )


def as_dict(found: Comparison) -> dict[str, Any]:
    """For programs."""
    return {**asdict(found), "confidence": 1 - 2 * ALPHA}


def _target(old: Side, new: Side, target: str, metric: str) -> TargetChange:
    before, after = verdict_of(old.report, target), verdict_of(new.report, target)
    step = RANK[after] - RANK[before]
    return TargetChange(
        target=target,
        required=new.file(target).required,
        old_verdict=before,
        new_verdict=after,
        verdict="better" if step > 0 else "worse" if step < 0 else "same",
        figures=(
            _metric(old, new, target, metric),
            _size(old.file(target), new.file(target)),
            *(latency(old, new, target, quantile) for quantile in (0.5, 0.9)),
            memory(old, new, target),
        ),
    )


def same_samples(old: Report, new: Report) -> bool:
    """Whether both were judged by the same test split."""
    return old.data.splits.test.sha256 == new.data.splits.test.sha256


def same_teacher(old: Report, new: Report) -> bool:
    """Whether both were compressed from the same teacher: by its predictions, or by its files."""
    said = [r.teacher.predictions and r.teacher.predictions.sha256 for r in (old, new)]
    if said[0] is not None and said[0] == said[1]:
        return True
    files = [
        {f.sha256 for a in r.artifacts if a.id in r.teacher.artifact_ids for f in a.files} for r in (old, new)
    ]
    return bool(files[0]) and files[0] == files[1]


def _metric(old: Side, new: Side, target: str, name: str) -> Change:
    """Paired where both hold predictions of the same samples, else by an interval of each."""
    files = old.file(target), new.file(target)
    first, second = (words.find_metric(a.metrics, name) for a in files)
    values = tuple(None if m is None else m.value for m in (first, second))
    unit = words.primary(new.report).unit
    absent = Change(
        name, unit, values[0], values[1], None, None, "not comparable", f"no {name} in one of them"
    )
    if first is None or second is None:
        return absent
    obstacle = _unpaired(old, new, files, name)
    if not obstacle:
        paired = _paired(old, new, files, absent, metric_named(name))
        if isinstance(paired, Change):
            return paired
        obstacle = paired
    sign = 1 if second.direction == "higher" else -1
    ends: list[Ends | None]
    if same_samples(old.report, new.report) and same_teacher(old.report, new.report):
        # A drop is paired with the teacher: narrower than the value's own interval. Less of it is better.
        ends, sign = [m.drop_interval for m in (first, second)], -1
        what = "the drop against the same teacher"
    elif unit == "percent":
        sizes = (side.report.data.splits.test.n for side in (old, new))
        ends = [_exact(m.value, n) for m, n in zip((first, second), sizes, strict=True)]
        what = f"each {name} on its own samples"
    else:
        return replace(absent, basis=obstacle)
    if ends[0] is None or ends[1] is None:
        return replace(absent, basis=f"{obstacle}, and there are no intervals")
    return replace(
        absent,
        change=second.value - first.value,
        word=_apart(ends[0], ends[1], sign),
        basis=f"by two 90% intervals, of {what}, since {obstacle}",
        old_interval=ends[0],
        new_interval=ends[1],
    )


def _unpaired(old: Side, new: Side, files: Sequence[ArtifactRecord], name: str) -> str:
    """Why the two cannot be compared sample by sample, or nothing."""
    if not same_samples(old.report, new.report):
        return "the test splits differ"
    for side, file, which in zip((old, new), files, ("old", "new"), strict=True):
        if file.predictions is None or not (side.folder / file.predictions.path).is_file():
            return f"the {which} folder holds no predictions"
    teacher = new.report.teacher.predictions
    needed = _cluster(new) is not None or gate.is_ranked(metric_named(name))
    if needed and (teacher is None or not (new.folder / teacher.path).is_file()):
        return "the new folder does not say what samples come in: it holds no predictions of the teacher"
    return ""


def _cluster(side: Side) -> str | None:
    return _column(side, "cluster")


def _column(side: Side, key: str) -> str | None:
    found = words.policy(side.report).get(key)
    if found is not None and not isinstance(found, str):
        raise DataError(f"report: gate.policy.{key} = {found!r} is no column")
    return found


def _paired(
    old: Side, new: Side, files: Sequence[ArtifactRecord], absent: Change, metric: Metric
) -> Change | str:
    """By the interval of the gate; a text that says why where the two do not pair up."""
    records = [a.predictions for a in files]
    assert records[0] is not None and records[1] is not None  # `_unpaired`
    before, after = read_predictions(records[0], old.folder), read_predictions(records[1], new.folder)
    cluster = _cluster(new)
    query = _column(new, "query") if gate.is_ranked(metric) else None
    # What samples come in is said beside the teacher's answers.
    beside = None if cluster is None and query is None else read_teacher(new.report, new.folder)
    try:
        if beside is not None:
            both = gate.pair(beside, after)
            after = replace(both.candidate, columns=both.teacher.columns)
        found = gate.compare(before, after, None, ALPHA, cluster)
        drop = found.drop if metric == ACCURACY else _other_drop(before, after, metric, query, cluster)
    except DataError as error:  # other ids, labels or classes, though the splits have one hash
        return f"the predictions do not pair up ({error.message})"
    if drop.interval is None:
        return f"there are too few of {cluster!r} to draw" if cluster else "there are too few samples to tell"
    low, high = (0.0 - end for end in reversed(drop.interval))  # and no minus before a zero
    if drop.metric.direction == "lower":
        low, high = -high, -low
    sign = 1 if drop.metric.direction == "higher" else -1
    word: Word = "noise"
    if not low <= 0 <= high:
        word = "better" if sign * low > 0 else "worse"
    if (found.agreement == 1) if metric == ACCURACY else (drop.interval == (0.0, 0.0)):
        word = "same"
    if metric != ACCURACY:
        basis = f"paired on the same {found.n:,} samples: a bootstrap of {metric.name}"
        return replace(absent, change=drop.value - drop.teacher, interval=(low, high), word=word, basis=basis)
    basis = (
        f"paired on the same {found.n:,} samples: {found.c} that only the new file has right, "
        f"{found.b} that only the old one has; "
        + ("Tango's interval" if cluster is None else f"{cluster} by {cluster} drawn together")
    )
    change = 0.0 - found.drop.drop
    return replace(absent, change=change, interval=(low, high), word=word, basis=basis)


def _other_drop(
    before: Predictions, after: Predictions, metric: Metric, query: str | None, cluster: str | None
) -> Drop:
    """From the old file to the new one, of another metric than accuracy."""
    columns = {**after.columns}
    return gate.drop_of(replace(before, columns=columns), after, metric, ALPHA, None, query, cluster)


def _exact(percent: float, n: int) -> Ends | None:
    """Clopper-Pearson, in percent."""
    if n < 1 or not 0 <= percent <= 100:
        return None
    right = round(percent * n / 100)
    low, high = (f(right, n, ALPHA) for f in (gate.clopper_pearson_lower, gate.clopper_pearson_upper))
    return 100 * low, 100 * high


def _apart(old: Ends, new: Ends, sign: int) -> Word:
    """By two intervals that do not touch, which is a stricter question than that of an interval of both."""
    if new[0] > old[1]:
        return "better" if sign > 0 else "worse"
    if new[1] < old[0]:
        return "worse" if sign > 0 else "better"
    return "noise"


def _size(old: ArtifactRecord, new: ArtifactRecord) -> Change:
    ratio = new.size_bytes / old.size_bytes if old.size_bytes else None
    word: Word = "same"
    if new.size_bytes != old.size_bytes:
        word = "better" if new.size_bytes < old.size_bytes else "worse"
    basis = "the same file" if content(old) == content(new) else "bytes are counted, there is no noise"
    return Change("size", "bytes", old.size_bytes, new.size_bytes, ratio, None, word, basis)


def _cautions(old: Report, new: Report) -> dict[str, str]:
    """What a reader must know before any figure: of what -> a sentence."""
    found = {}
    if not same_samples(old, new):
        counts = [f"{r.data.splits.test.n:,}" for r in (old, new)]
        found["test samples"] = (
            f"The test splits differ ({counts[0]} samples then, {counts[1]} now, other sha256): "
            "accuracies are of different samples."
        )
    if not same_teacher(old, new):
        found["teacher"] = (
            "The teachers differ, or are not known to be the same: so do the drops against them."
        )
    if old.recipe.name != new.recipe.name:
        found["recipe"] = f"The recipes differ: {old.recipe.name} then, {new.recipe.name} now."
    if words.primary(old).name != words.primary(new).name:
        found["metric"] = (
            f"The metrics differ: {words.primary(old).name} then, {words.primary(new).name} now."
        )
    policies = [dict(words.policy(r)) for r in (old, new)]
    keys = sorted({k for p in policies for k in p} - {"why"})
    if changed := [k for k in keys if policies[0].get(k) != policies[1].get(k)]:
        said = "; ".join(f"{k}: {policies[0].get(k)} then, {policies[1].get(k)} now" for k in changed)
        found["policy"] = f"The gate's policies differ, so verdicts do not say the same ({said})."
    both = set(words.targets(old)) & set(words.targets(new))
    for key, what in (("budgets", "budgets"), ("targets", "targets' own policies")):
        if other := [t for t in words.targets(new) if t in both and _of(old, key, t) != _of(new, key, t)]:
            found[what] = f"The {what} of {words.listed(other)} differ, so verdicts do not say the same."
    if smoked := [which for r, which in ((old, "old"), (new, "new")) if r.recipe.config.get("smoke")]:
        found["a smoke run"] = f"A smoke run on a sliver of data: the {words.listed(smoked)} report."
    for target in (t for t in words.targets(new) if t in both):
        if hosts := host_differences(machine_of(old, target), machine_of(new, target)):
            found["host"] = f"The hosts differ ({then_and_now(hosts)}): latency and memory are not compared."
    systems = {key: (old.host.get(key), new.host.get(key)) for key in ("os", "kernel", "python")}
    if systems := {key: both for key, both in systems.items() if both[0] != both[1]}:
        found["system"] = f"The hosts have other systems ({then_and_now(systems)})."
    return found


def _of(report: Report, key: str, target: str) -> Any:
    """What the gate's record says under a key of one target; nothing where it says nothing."""
    stored = report.gate.get(key)
    return (stored.get(target) if isinstance(stored, dict) else None) or {}
