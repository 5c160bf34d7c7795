"""A chain whose task names columns: slices by them, clusters of them, from training to a signed release."""

import json

import numpy as np
import pytest
from runs import TINY
from scipy import stats

from edgekd import comparing
from edgekd.bundle import pack
from edgekd.bundle.verify import verify
from edgekd.rejudge import judge_again

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
    assert "from earlier runs: all" in sliced.said


def test_slices_are_those_of_the_file(sliced, finished):
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
    ends = stats.bootstrap(
        (lost, size),
        lambda lost, size, axis: 100 * lost.sum(axis) / size.sum(axis),
        paired=True,
        n_resamples=20_000,
        confidence_level=0.9,
        method="BCa",
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert own["metrics"][0]["drop_interval"] == pytest.approx(list(ends), abs=1.01 * 100 / n)
    assert ends.high - ends.low > 5 * 100 / n
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
    page = (folder / "report.html").read_text()
    assert "north" in page and "gallery" in page
