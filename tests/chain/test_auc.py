"""A chain judged by AUC: trees and a network teach a small one; each figure against scikit-learn."""

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import edgekd
from edgekd import comparing, terminal_report
from edgekd.bundle.evidence import check_evidence
from edgekd.config import load_target
from edgekd.errors import UsageError
from edgekd.rejudge import judge_again

RECIPE = {
    "name": "table",
    "targets": ["host"],
    "required_targets": ["host"],
    "task": {
        "kind": "table",
        "label": "buys",
        "categorical": ["kind"],
        "log1p": ["seconds"],
        "val_fraction": 0.1,
        "test_fraction": 0.4,
    },
    "teacher": {
        "weights": "val_metric",
        "members": [
            {"function": {"kind": "edgekd.teachers.boosting:fit", "fit": True, "max_iter": 20}},
            {
                "model": {"kind": "mlp", "hidden": [32]},
                "train": {"epochs": 8, "batch_size": 32, "optimizer": "adamw", "lr": 0.01, "patience": 2},
            },
        ],
    },
    "student": {"model": {"kind": "mlp", "hidden": [12]}},
    "distill": {"epochs": 8, "batch_size": 32, "optimizer": "adamw", "lr": 0.02},
    "quantize": {"method": "ptq", "sensitivity": True},
    "gate": {"metric": "auc", "max_drop": 0.06},
}


def write(path, rows=1600):
    """Who stays long, or is of kind b, mostly buys."""
    rng = np.random.default_rng(0)
    seconds, kind, noise = rng.exponential(100, rows), rng.integers(0, 3, rows), rng.normal(size=rows)
    buys = (np.log1p(seconds) - 4.2 + 1.5 * (kind == 1) + noise > 0.3).astype(int)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seconds", "kind", "buys"])
        writer.writerows(zip((f"{s:.3f}" for s in seconds), np.array(list("abc"))[kind], buys, strict=True))


def recipe(folder, **gate):
    return RECIPE | {
        "task": RECIPE["task"] | {"train": str(folder / "table.csv")},
        "gate": RECIPE["gate"] | gate,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("auc")
    write(folder / "table.csv")
    report = edgekd.compress(recipe(folder), workdir=folder / "work", store=folder / "store")
    return folder, report


def scores(folder, record):
    with np.load(folder / "work" / record.path) as found:
        both = found["scores"].astype(np.float64)  # in 32 bits differences of near scores would be equal
        return both[:, 1] - both[:, 0], found["labels"]


def test_every_step_is_told_by_auc_with_accuracy_beside_it(run):
    folder, report = run
    own, labels = scores(folder, report.teacher.predictions)
    teacher = roc_auc_score(labels, own)
    first, second = report.teacher.metrics
    assert (first.name, first.unit, second.name, second.unit) == ("auc", "", "accuracy", "percent")
    assert first.value == pytest.approx(teacher, abs=1e-9) and teacher > 0.75
    assert second.value == pytest.approx(100 * ((own > 0) == labels).mean())
    (target,) = (a for a in report.artifacts if a.role == "target")
    for told in (*report.stages[1:], *report.artifacts):
        auc, accuracy = told.metrics
        found = roc_auc_score(labels, scores(folder, told.predictions)[0])
        assert (auc.value, auc.drop) == pytest.approx((found, teacher - found), abs=1e-9)
        assert auc.drop_interval[0] < auc.drop < auc.drop_interval[1]
        assert accuracy.name == "accuracy" and accuracy.margin is None
    assert target.metrics[0].margin == 0.06
    check = next(c for c in report.verdict.checks if c.name == "auc")
    assert (check.observed, check.unit, check.status) == (pytest.approx(target.metrics[0].drop), "", "PASS")
    # The verdict and what is told of the file are one interval.
    assert f"{target.metrics[0].drop_interval[1]:.4g}" in check.detail


def test_stages_go_by_auc_on_val(run):
    folder, report = run
    entries = {
        p.name.partition("-")[0]: p for p in (folder / "store").iterdir() if (p / "result.json").is_file()
    }
    of = {name: json.loads((path / "result.json").read_text())["result"] for name, path in entries.items()}
    labels = np.load(entries["data"] / "val.labels.npy")

    def on_val(stage):
        found = np.load(entries[stage] / "val_scores.npy").astype(np.float64)
        return roc_auc_score(labels, found[:, 1] - found[:, 0])

    members = [on_val("file"), on_val("network")]
    assert of["ensemble"]["weights"] == pytest.approx([m / sum(members) for m in members])
    watched = [epoch["val_auc"] for epoch in of["network"]["history"]]
    assert max(watched) == pytest.approx(members[1], abs=1e-6)  # the best weights are kept
    assert "val_accuracy" not in of["network"]["history"][0]
    assert [m.id for m in report.teacher.members] == ["teacher-1", "teacher-2"]
    assert all(0.7 < m.value < 1 < m.accuracy for m in report.teacher.members)
    layers = next(s for s in report.stages if s.sensitivity).sensitivity
    assert all(layer.drop is not None and abs(layer.drop) < 0.2 for layer in layers)


def test_the_report_reads_as_auc(run, told):
    folder, report = run
    value = f"{report.teacher.metrics[0].value:.4f}"
    shown = told(terminal_report.show_report, report, folder / "work")
    head = next(line for line in shown.splitlines() if line.split()[:1] == ["stage"])
    assert head.split()[1:3] == ["AUC", "Drop"] and value in shown and "Acc." not in shown
    assert "at a margin of 0.06 of auc" in shown
    page, card = ((folder / "work" / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert "| Step | AUC | Drop | 90% interval | This step | Drop so far |" in card
    assert f"Teacher’s AUC: **{value}**" in card and "Margin: **0.06**" in card
    # Whether int8 beats float in a network of two layers is a matter of the day.
    if report.verdict.status == "PASS":
        assert "every file loses less than 0.06 of AUC against the teacher" in page
    assert "AUC against size" in page and "Beside what is judged" in page
    for text in (page, card):
        assert "AUC, <" not in text and "Drop, <" not in text and "Drop,  " not in text
        waterfall = text[text.find("What each step cost") : text.find("Speed-up over")]
        assert " pp" not in waterfall


def test_the_preparation_ships_beside_the_file(run):
    folder, report = run
    (target,) = (a for a in report.artifacts if a.role == "target")
    assert [f.path for f in target.files] == ["artifacts/host.tflite", "artifacts/host.preprocessing.json"]
    prepared = edgekd.read_preparation(folder / "work" / target.files[1].path)
    assert [c["name"] for c in prepared["columns"]] == ["seconds", "kind"]
    # The same document lies in the file, as a text within its JSON.
    text = (folder / "work" / target.files[1].path).read_text().strip()
    held = (folder / "work" / target.files[0].path).read_bytes()
    assert json.loads(text) == prepared and json.dumps(text).encode() in held
    assert target.size_bytes == sum((folder / "work" / f.path).stat().st_size for f in target.files)
    # A row, prepared from the document alone, through the file: what the run has stored of it.
    from edgekd.runtimes import open_session

    with (folder / "table.csv").open(newline="") as file:
        rows = {f"train:{line}": row for line, row in enumerate(csv.DictReader(file), start=2)}
    with np.load(folder / "work" / target.predictions.path) as found:
        ids, stored = found["sample_ids"], found["scores"]
    x = np.stack([edgekd.prepare_row(rows[i], prepared) for i in ids[:20]])
    session = open_session("litert", folder / "work" / target.files[0].path)
    np.testing.assert_allclose(np.concatenate([session.run(row[None]) for row in x]), stored[:20], atol=1e-5)


def test_it_can_be_made_anew_from_its_folder(run):
    folder, report = run
    found = check_evidence(report, folder / "work", [load_target("host")])
    assert found.verdict.status == report.verdict.status
    wider = judge_again(folder / "work", max_drop=0.0001)
    assert wider.verdict.status in ("FAIL", "INCONCLUSIVE")
    assert next(a for a in wider.artifacts if a.role == "target").metrics[0].margin == 0.0001
    same = comparing.compare(folder / "work", folder / "work")
    (target,) = same.targets
    change = next(c for c in target.figures if c.figure == "auc")
    assert (change.word, change.change) == ("same", 0.0)


def test_what_cannot_be_told_is_refused_before_training(tmp_path):
    write(tmp_path / "table.csv", 400)
    text = (tmp_path / "table.csv").read_text()
    (tmp_path / "table.csv").write_text(text.replace(",1\n", ",2\n", 20))
    with pytest.raises(UsageError, match="is of two classes, the task has 3"):
        edgekd.compress(recipe(tmp_path), workdir=tmp_path / "w", store=tmp_path / "s")
    assert not list((tmp_path / "s").glob("file-*"))
