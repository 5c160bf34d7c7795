"""A chain whose task names columns: slices by them, clusters of them, from training to a signed release."""

import hashlib
import json
import re
import shutil
import tomllib
import zipfile

import numpy as np
import pytest
from runs import TINY
from scipy import stats

from edgekd import comparing, judgement, pipeline
from edgekd.bundle import pack
from edgekd.bundle.verify import verify
from edgekd.columns import column_of
from edgekd.config import GateConfig
from edgekd.errors import DataError, EdgeKDError, UsageError
from edgekd.rejudge import judge_again
from edgekd.report.markdown import markdown
from edgekd.report.model_card import model_card
from edgekd.report.summary import summary

GATE = """
[gate]
max_drop_pp = 20.0
cluster = "user"
[gate.slices.shop]
max_drop_pp = 30.0
min_slice_n = 20
"""


@pytest.fixture(scope="module")
def sliced(finished, tmp_path_factory):
    """The finished run again, its test samples in shops and of users."""
    commands = finished.copy(tmp_path_factory.mktemp("sliced"))
    with np.load(commands.folder / "runs/tiny-smoke/predictions/stages/teacher.npz") as found:
        ids = found["sample_ids"]
    rows = [f"{name},{'north' if i % 3 else 'south'},u{i // 4},{i}" for i, name in enumerate(ids)]
    # In another order than the samples', with one that is none of them.
    (commands.folder / "meta.csv").write_text(
        "\n".join(["sample_id,shop,user,unasked", "other,west,u0,0", *reversed(rows)]) + "\n"
    )
    columns = '[task.columns]\nfile = "meta.csv"\nnames = ["shop", "user"]\n'
    text = TINY[: TINY.index("[gate]")].replace("[teacher.model]", columns + "[teacher.model]", 1)
    done = commands("run", commands.write(text + GATE), "--workdir", "sliced")
    assert done.returncode == 3, done.stderr + done.stdout
    commands.said = done.stdout
    return commands


def shipped(report):
    return next(a for a in report["artifacts"] if a["target"] == "x86-onnx")


def test_nothing_is_trained_anew_for_columns(sliced):
    names = {path.name.partition("-")[0] for path in sliced.store.glob("*-*")}
    assert "columns" in names and {"distill", "prune", "quantize"} <= names
    done = re.findall(r"^(\S+)\n  done in", sliced.said, re.MULTILINE)
    assert done == ["columns"]


def test_slices_are_those_of_the_file(sliced):
    report = sliced.report("sliced")
    n = report["data"]["splits"]["test"]["n"]
    found = {(s["column"], s["value"]): s for s in shipped(report)["slices"]}
    south = len(range(0, n, 3))
    assert {key: s["n"] for key, s in found.items() if key[0] == "shop"} == {
        ("shop", "north"): n - south,
        ("shop", "south"): south,
    }
    assert found["shop", "south"]["mandatory"] and not found["label", "0"]["mandatory"]
    assert not [key for key in found if key[0] == "user"]  # users are what is drawn, no slices
    # The drop in a shop, by hand from the stored scores.
    folder = sliced.folder / "sliced/predictions"
    with np.load(folder / "stages/teacher.npz") as teacher, np.load(folder / "files/x86-onnx.npz") as file:
        assert set(teacher.files) == {"sample_ids", "labels", "scores", "shop", "user"}
        assert set(file.files) == {"sample_ids", "labels", "scores"}
        right = [f["scores"].argmax(1) == f["labels"] for f in (teacher, file)]
        shop = teacher["shop"]
    for name in ("north", "south"):
        lost = right[0][shop == name].mean() - right[1][shop == name].mean()
        assert found["shop", name]["drop"] == pytest.approx(100 * lost, abs=1e-9)


def test_drops_have_the_intervals_of_users(sliced, finished):
    n = sliced.report("sliced")["data"]["splits"]["test"]["n"]
    users = -(-n // 4)
    (check,) = [
        c
        for c in sliced.report("sliced")["verdict"]["checks"]
        if (c["name"], c["target"]) == ("accuracy", "x86-onnx")
    ]
    assert f"n = {users} clusters" in check["detail"]
    own, plain = (shipped(c.report(*w)) for c, w in ((sliced, ["sliced"]), (finished, [])))
    assert own["metrics"][0]["drop"] == plain["metrics"][0]["drop"]
    assert own["metrics"][0]["drop_interval"] != plain["metrics"][0]["drop_interval"]
    # Users drawn with replacement by scipy; ends lie on whole samples.
    folder = sliced.folder / "sliced/predictions"
    with np.load(folder / "stages/teacher.npz") as teacher, np.load(folder / "files/x86-onnx.npz") as file:
        right = [f["scores"].argmax(1) == f["labels"] for f in (teacher, file)]
    lost = np.array([sum(x) for x in np.split(right[0] * 1.0 - right[1], range(4, n, 4))])
    size = np.array([len(x) for x in np.split(right[0], range(4, n, 4))])
    drawn = stats.bootstrap(
        (lost, size),
        lambda lost, size, axis: 100 * lost.sum(axis) / size.sum(axis),
        paired=True,
        n_resamples=20_000,
        confidence_level=0.9,
        method="BCa",
        rng=np.random.default_rng(5),
    ).confidence_interval
    # Tango's interval allows for more where few flips were seen.
    tango = plain["metrics"][0]["drop_interval"]
    ends = [min(drawn.low, tango[0]), max(drawn.high, tango[1])]
    assert own["metrics"][0]["drop_interval"] == pytest.approx(ends, abs=1.01 * 100 / n)
    assert drawn.high > tango[1] + 100 / n  # so that it is seen which of the two it is
    assert {d["drop_interval"] for d in own["class_drops"]["worst"]} == {None}


def test_it_is_judged_again_bundled_and_compared(sliced, tmp_path):
    folder = sliced.folder / "sliced"
    report = sliced.report("sliced")
    again = judge_again(folder)
    assert json.loads(again.model_dump_json())["artifacts"] == report["artifacts"]
    path = tmp_path / "policy.toml"
    path.write_text("[gate]\nmax_drop_pp = 20.0\n")  # no clusters: Tango's intervals again
    plain = judge_again(folder, None, path)
    assert plain.artifacts[0].metrics[0].drop_interval != again.artifacts[0].metrics[0].drop_interval
    pack.bundle(folder, tmp_path / "release.zip", license_="Apache-2.0", signer=None)
    assert verify(tmp_path / "release.zip", None).report.verdict == again.verdict
    figures = comparing.compare(folder, folder).targets[0].figures[0]
    assert figures.word == "same" and "user by user drawn together" in figures.basis
    assert ">shop = north<" in (folder / "report.html").read_text()


@pytest.fixture
def copied(sliced, tmp_path):
    """A folder of the run, to spoil."""
    return shutil.copytree(sliced.folder / "sliced", tmp_path / "sliced")


def respoken(folder, which, change):
    """Changes the arrays of a file of predictions, and lets the report name its new checksum."""
    report = json.loads((folder / "report.json").read_text())
    records = {"teacher": report["teacher"]["predictions"], "file": shipped(report)["predictions"]}
    path = folder / records[which]["path"]
    with np.load(path) as found:
        arrays = {name: found[name] for name in found.files}
    change(arrays)
    np.savez(path, **arrays)
    records[which]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "report.json").write_text(json.dumps(report))


def test_a_report_is_written_again_whatever_became_of_the_columns(sliced, copied, tmp_path):
    report = (copied / "report.json").read_bytes()
    meta = sliced.folder / "meta.csv"
    text = meta.read_text()
    for became in (text.replace("north", "moved"), None):
        meta.write_text(became) if became else meta.unlink()
        done = sliced("report", copied)
        assert done.returncode in (0, 3), done.stderr
        assert (copied / "report.json").read_bytes() == report
    meta.write_text(text)


@pytest.mark.parametrize(
    ("which", "arrays", "message"),
    [
        ("file", {"user": np.array(["u0"] * 192)}, "'user' beside the scores: only the teacher's"),
        ("teacher", {"label": np.array(["0"] * 192)}, "no column may be called 'label'"),
        ("teacher", {"shop": np.array([""] * 192)}, "'shop' has no value in row 1"),
        ("teacher", {"shop": np.array(["a"] * 191)}, "'shop' holds no texts, one a sample"),
        ("teacher", {"shop": np.arange(192)}, "'shop' holds no texts"),
    ],
)
def test_stored_columns_that_say_nothing(copied, which, arrays, message):
    respoken(copied, which, lambda found: found.update(arrays))
    with pytest.raises(DataError, match=message):
        judge_again(copied)
    with pytest.raises(EdgeKDError):  # another teacher's file is another judgement, too
        pack.bundle(copied, copied / "release.zip", license_="MIT", signer=None)


def test_an_entry_that_is_no_array(copied):
    report = json.loads((copied / "report.json").read_text())
    record = report["teacher"]["predictions"]
    with zipfile.ZipFile(copied / record["path"], "a") as found:
        found.writestr("shop2", b"none")
    record["sha256"] = hashlib.sha256((copied / record["path"]).read_bytes()).hexdigest()
    (copied / "report.json").write_text(json.dumps(report))
    with pytest.raises(DataError, match="'shop2' holds no texts"):
        judge_again(copied)


def test_beside_a_baseline_report_whose_columns_were_others(copied, sliced, tmp_path):
    respoken(copied, "teacher", lambda found: found.update(shop=found["shop"][::-1].copy()))
    report = json.loads((copied / "report.json").read_text())
    report["recipe"]["smoke"] = False  # else it is no baseline
    (copied / "report.json").write_text(json.dumps(report))
    policy = tmp_path / "policy.toml"
    policy.write_text("[gate]\nmax_drop_pp = 20.0\nmax_size_ratio = 1.0\n")
    found = judge_again(sliced.folder / "sliced", None, policy, copied)
    checks = {c.name: c.status for c in found.verdict.checks if c.target == "x86-onnx"}
    assert (checks["same_teacher"], checks["size_ratio"]) == ("PASS", "PASS")


def test_comparing_where_clusters_are_not_known(copied, sliced):
    (copied / "predictions/stages/teacher.npz").unlink()
    found = comparing.compare(sliced.folder / "sliced", copied).targets[0].figures[0]
    assert found.interval is None and "does not say what samples come in" in found.basis
    report = json.loads((copied / "report.json").read_text())
    report["gate"]["policy"]["cluster"] = ["user"]
    (copied / "report.json").write_text(json.dumps(report))
    with pytest.raises(DataError, match=r"gate\.policy\.cluster = \['user'\] is no column"):
        comparing.compare(sliced.folder / "sliced", copied)


def test_too_few_clusters_leave_no_interval_behind(sliced, copied, tmp_path):
    # Of users there are enough; of shops two: the bundle's and the page's words for no interval.
    policy = tmp_path / "policy.toml"
    policy.write_text('[gate]\nmax_drop_pp = 20.0\ncluster = "shop"\n')
    report = judge_again(copied, None, policy)
    (file,) = [a for a in report.artifacts if a.target == "x86-onnx"]
    assert file.metrics[0].drop_interval is None and file.metrics[0].drop > 0
    assert {c.status for c in report.verdict.checks if c.name == "accuracy"} == {"INCONCLUSIVE"}
    drop = f"{file.metrics[0].drop:+.2f}"
    for text in (markdown(report), summary(report), model_card(report, "MIT")):
        assert f"| {drop} |" in text


def test_clusters_that_could_show_nothing_are_refused_before_training():
    labels, names = np.zeros(400, np.int64), ("a", "b")
    users = column_of([f"u{i // 4}" for i in range(400)])  # 100 users
    shops = column_of(["small" if i < 80 else "large" for i in range(400)])  # of 20 and 80 users
    columns = {"user": users, "shop": shops}

    def plan(**more):
        return judgement.plan(GateConfig(max_drop_pp=1.0, cluster="user", **more), labels, names, columns)

    plan()
    plan(slices={"shop": {"max_drop_pp": 3.0, "mandatory": False}})
    with pytest.raises(UsageError, match="shop = small can never pass: 20 clusters"):
        plan(slices={"shop": {"max_drop_pp": 3.0, "min_slice_n": 50}})
    with pytest.raises(UsageError, match="user = u0 can never pass: 1 clusters"):
        plan(slices={"user": {"max_drop_pp": 3.0, "min_slice_n": 2}})
    columns["shop"] = column_of(["small" if i < 160 else "large" for i in range(400)])
    plan(slices={"shop": {"max_drop_pp": 3.0, "min_slice_n": 160}})
    with pytest.raises(UsageError, match=r"shop = small can never pass: 160 samples, min_slice_n is 161"):
        plan(slices={"shop": {"max_drop_pp": 3.0, "min_slice_n": 161}})


def test_columns_of_the_recipe_go_with_a_task_from_python(sliced):
    recipe = tomllib.loads((sliced.folder / "recipe.toml").read_text())
    chosen, _ = pipeline.resolve(recipe, {"task": object()}, {}, None, None)
    assert chosen.task.kind == "object" and chosen.task.columns.names == ("shop", "user")
