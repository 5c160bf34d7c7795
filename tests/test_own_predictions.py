"""`edgekd gate` on predictions that no chain made."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edgekd import cli, own_predictions
from edgekd.errors import DataError, EdgeKDError, StoreError, UsageError


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))


def table(labels, said, **columns):
    head = ",".join(["sample_id", "label", "prediction", *columns])
    rows = zip(range(len(labels)), labels, said, *columns.values(), strict=True)
    return head + "\n" + "".join(f"s{','.join(map(str, row))}\n" for row in rows)


@pytest.fixture
def files(tmp_path):
    """A teacher that is always right, and a student that errs where told."""

    def write(wrong, size=2000, shuffled=False, **columns):
        labels = np.arange(size) % 10
        said = np.where(wrong(np.arange(size), labels), (labels + 1) % 10, labels)
        (tmp_path / "teacher.csv").write_text(table(labels, labels, **columns))
        (tmp_path / "student.csv").write_text(table(labels, said))
        if shuffled:
            head, *rows = (tmp_path / "student.csv").read_text().splitlines()
            order = np.random.default_rng(0).permutation(len(rows))
            (tmp_path / "student.csv").write_text("\n".join([head, *(rows[i] for i in order)]) + "\n")
        return [
            "gate",
            "--baseline",
            str(tmp_path / "teacher.csv"),
            "--candidate",
            str(tmp_path / "student.csv"),
        ]

    return write


def gate(*arguments):
    found = CliRunner().invoke(cli.app, [*map(str, arguments)])
    if isinstance(found.exception, EdgeKDError):
        raise found.exception
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


def policy(tmp_path, text):
    path = tmp_path / "policy.toml"
    path.write_text(f"[gate]\n{text}")
    return ["--policy", str(path)]


@pytest.mark.parametrize(
    ("wrong", "size", "code", "word"),
    [
        (lambda i, label: i < 10, 10_000, 0, "PASS"),
        (lambda i, label: i < 300, 10_000, 1, "FAIL"),
        (lambda i, label: i < 1, 200, 3, "INCONCLUSIVE"),
    ],
)
def test_the_three_verdicts(files, wrong, size, code, word):
    command = files(wrong, size, shuffled=True)
    found = gate(*command, "--max-drop", 1.0)
    assert (found.exit_code, found.stdout.splitlines()[-1].split()[0]) == (code, word)
    told = json.loads(gate(*command, "--max-drop", 1.0, "--json").stdout)
    assert (told["status"], told["exit_code"]) == (word, code)
    (check,) = [c for c in told["candidates"]["student"]["checks"] if c["name"] == "accuracy"]
    assert check["observed"] == pytest.approx(100 * sum(wrong(i, i % 10) for i in range(size)) / size)


SLICED = "max_drop_pp = 1.0\nexpected_discordance = 0.006\n[gate.slices.label]\nmax_drop_pp = 3.0\n"


def test_one_bad_class_is_named_though_the_whole_is_within_the_margin(files, tmp_path):
    command = files(lambda i, label: (label == 7) & (i % 200 < 10), 10_000)
    found = gate(*command, *policy(tmp_path, SLICED))
    assert found.exit_code == 1
    assert "PASS accuracy" in found.stdout
    # In the table of slices, and where the verdict says what it comes from.
    line, verdict = (line for line in found.stdout.splitlines() if "label = 7" in line)
    assert "FAIL" in line and "5" in line
    assert verdict.startswith("FAIL") and verdict.endswith("(student: label = 7)")
    told = json.loads(gate(*command, *policy(tmp_path, SLICED), "--json").stdout)
    failed = [c["slice"] for c in told["candidates"]["student"]["checks"] if c["status"] == "FAIL"]
    assert failed == [["label", "7"]]


def test_slices_that_could_never_pass_are_refused(files, tmp_path):
    command = files(lambda i, label: i < 0, 2000)
    asked = SLICED.replace("0.006", "0.06")
    with pytest.raises(
        UsageError, match=r"all 10 mandatory slices with probability \d+% .* with 200 samples"
    ):
        gate(*command, *policy(tmp_path, asked))
    warned = gate(*command, *policy(tmp_path, asked.replace("= 3.0", "= 6.5")))
    assert warned.exit_code == 0 and "all mandatory slices with" in " ".join(warned.stdout.split())
    assert (
        "mandatory slices with"
        not in gate(*command, *policy(tmp_path, asked.replace("= 3.0", "= 9.0"))).stdout
    )


def test_other_columns_raise_alarms_that_block_nothing(files):
    where = np.repeat(["north", "south"], [9000, 1000])
    command = files(lambda i, label: (i >= 9000) & (i < 9040), 10_000, region=where, row=np.arange(10_000))
    found = gate(*command, "--max-drop", 1.0)
    assert found.exit_code == 0
    (line,) = [line for line in found.stdout.splitlines() if "region = south" in line]
    assert "ALARM" in line
    assert "11 slices that need not pass raised no alarm; 1 raised one." in found.stdout
    assert "column 'row' has 10,000 values and is no slice" in found.stdout


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_candidate_that_is_the_baseline_shows_nothing(files, shuffled):
    found = gate(*files(lambda i, label: i < 0, 2000, shuffled=shuffled), "--max-drop", 1.0)
    assert found.exit_code == 0 and "the baseline says the same of every sample" in found.stdout
    command = files(lambda i, label: i == 0, 2000, shuffled=shuffled)
    assert "the baseline says the same" not in gate(*command, "--max-drop", 1.0).stdout


def test_samples_for_an_assumed_drop(files):
    command = files(lambda i, label: i < 3, 300)
    found = gate(*command, "--max-drop", 1.0, "--assumed-drop", 0.5).stdout
    found = " ".join(found.split())
    psi = 3 / 300
    from edgekd.gate import samples_needed

    lossless = float(samples_needed(psi, 0.01, 0.05))
    assert f"about {int(np.ceil(lossless)):,} decide if nothing was lost" in found
    assert f"about {int(np.ceil(4 * lossless)):,} if 0.5 pp were lost" in found


def test_several_candidates_must_all_pass(files, tmp_path):
    command = files(lambda i, label: i < 300, 10_000)
    (tmp_path / "good.csv").write_text((tmp_path / "teacher.csv").read_text())
    found = gate(*command, "--candidate", f"good={tmp_path}/good.csv", "--max-drop", 1.0, "--json")
    told = json.loads(found.stdout)
    assert (found.exit_code, list(told["candidates"])) == (1, ["good", "student"])
    assert told["candidates"]["good"]["checks"][0]["status"] == "PASS"


def test_other_metrics(files, tmp_path):
    command = files(lambda i, label: i < 300, 10_000)
    for name, margin, code in (("f1_macro", 0.05, 0), ("f1_macro", 0.01, 1)):
        assert gate(*command, "--metric", name, "--max-drop", margin).exit_code == code
    relative = policy(tmp_path, 'metric = "f1_macro"\nmax_relative_drop = 0.05\n')
    found = gate(*command, *relative)
    assert found.exit_code == 0 and "of the teacher's f1_macro" in found.stdout
    rng = np.random.default_rng(0)
    relevance = rng.integers(0, 3, 4000)
    rows = {
        name: "sample_id,label,score,q\n"
        + "".join(f"s{i},{r},{r + noise * rng.normal():.4f},{i // 10}\n" for i, r in enumerate(relevance))
        for name, noise in (("teacher", 0.5), ("student", 3.0))
    }
    for name, text in rows.items():
        (tmp_path / f"{name}.csv").write_text(text)
    found = gate(*command, "--metric", "ndcg@5", "--query", "q", "--max-drop", 0.02)
    assert found.exit_code == 1 and "n = 400 queries, bootstrap" in " ".join(found.stdout.split())
    with pytest.raises(UsageError, match="ranks the rows of a query"):
        gate(*command, "--metric", "ndcg@5", "--max-drop", 0.02)


def test_each_judgement_is_counted_once(files):
    command = files(lambda i, label: i < 10, 10_000)
    for _ in range(2):
        assert json.loads(gate(*command, "--max-drop", 1.0, "--json").stdout)["judgements"] == 1
    command = files(lambda i, label: i < 11, 10_000)
    head, *rows = Path(command[2]).read_text().splitlines()
    Path(command[2]).write_text("\n".join([head, *rows[::-1]]))  # the same samples
    assert json.loads(gate(*command, "--max-drop", 1.0, "--json").stdout)["judgements"] == 2


def test_alpha_is_spent_over_the_judgements_of_the_same_samples(files, tmp_path):
    # 20 of 10,000 lost, none won: Tango's bound is Wilson's: 0.289, 0.309, 0.339 pp at z = 1.645 (0.05),
    # 1.96 (0.05/2, the first) and 2.394 (0.05/6, the second).
    policy = tmp_path / "policy.toml"
    policy.write_text("[gate]\nmax_drop_pp = 0.325\nspend_alpha = true\n")

    def verdict(start):
        command = files(lambda i, label: (start <= i) & (i < start + 20), 10_000)
        return gate(*command, "--policy", policy, "--json")

    first, again, second = verdict(0), verdict(0), verdict(100)
    assert [json.loads(f.stdout)["status"] for f in (first, again, second)] == [
        "PASS",
        "PASS",
        "INCONCLUSIVE",
    ]
    assert [json.loads(f.stdout)["judgements"] for f in (first, again, second)] == [1, 1, 2]
    policy.write_text("[gate]\nmax_drop_pp = 0.325\n")
    assert json.loads(verdict(200).stdout)["status"] == "PASS"


def test_another_teacher_makes_another_judgement(files, tmp_path):
    command = files(lambda i, label: i < 10, 10_000)
    assert json.loads(gate(*command, "--max-drop", 1.0, "--json").stdout)["judgements"] == 1
    head, *rows = (tmp_path / "teacher.csv").read_text().splitlines()
    worse = [row if i >= 500 else row.rpartition(",")[0] + ",1" for i, row in enumerate(rows)]
    (tmp_path / "teacher.csv").write_text("\n".join([head, *worse]) + "\n")
    found = json.loads(gate(*command, "--max-drop", 1.0, "--json").stdout)
    assert (found["status"], found["judgements"]) == ("PASS", 2)


def test_a_store_that_cannot_be_made_is_told_in_one_line(files, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match=r"the store cannot be made: .*EDGEKD_STORE"):
        gate(*files(lambda i, label: i < 0), "--max-drop", 1.0)


def test_one_score_is_judged_by_no_metric_of_classes(tmp_path, files):
    command, labels = files(lambda i, label: i < 0), np.arange(2000) % 2
    for name, scores in (("teacher", labels), ("student", 1 - labels)):
        rows = "".join(
            f"s{i},{label},{score}\n" for i, (label, score) in enumerate(zip(labels, scores, strict=True))
        )
        (tmp_path / f"{name}.csv").write_text(f"sample_id,label,score\n{rows}")
    for metric in ("accuracy", "f1", "f1_macro"):
        with pytest.raises(DataError, match="one score tells no class"):
            gate(*command, "--metric", metric, "--max-drop", 0.9)
    assert gate(*command, "--metric", "auc", "--max-drop", 0.05).exit_code == 1
    limited = policy(tmp_path, 'metric = "auc"\nmax_drop = 0.05\nmax_negative_flip_rate = 0.01\n')
    with pytest.raises(UsageError, match="max_negative_flip_rate: one score tells no class"):
        gate(*command, *limited)


def test_flips_of_clusters_have_no_exact_bound(tmp_path, files):
    command = files(lambda i, label: i < 20, user=np.arange(2000) // 20)
    asked = 'max_drop_pp = 10.0\ncluster = "user"\n'
    assert gate(*command, *policy(tmp_path, asked)).exit_code == 0
    with pytest.raises(UsageError, match="flips of clusters have no exact bound"):
        gate(*command, *policy(tmp_path, asked + "max_negative_flip_rate = 0.02\n"))


def test_values_that_must_be_there(tmp_path, files):
    command = files(lambda i, label: i < 0, 10_000)
    found = gate(*command, *policy(tmp_path, SLICED + 'values = ["7", "11"]\n'), "--json")
    checks = json.loads(found.stdout)["candidates"]["student"]["checks"]
    assert [c["slice"] for c in checks if c["status"] == "INCONCLUSIVE"] == [["label", "11"]]
    assert found.exit_code == 3
    with pytest.raises(UsageError, match=r"mandatory slices with probability 0%"):
        gate(*command, *policy(tmp_path, SLICED + "min_slice_n = 5000\n"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a report, or --baseline"),
        (["r", "--baseline", "t.csv"], "give a report, or --baseline"),
        (["r", "--metric", "auc"], "go with --baseline"),
        (["r", "--assumed-drop", "0.5"], "go with --baseline"),
        (["--baseline", "t.csv"], "no candidate"),
        (["--baseline", "t.csv", "--candidate", "s.csv"], "no margin"),
        (
            ["--baseline", "t.csv", "--candidate", "s.csv", "--candidate", "s=u.csv", "--max-drop", "1"],
            "twice",
        ),
        (["--baseline", "t.csv", "--candidate", "s.csv", "--max-drop", "0"], "or equal to 0.0001"),
        (["--baseline", "t.csv", "--candidate", "s.csv", "--max-drop", "1", "--metric", "acc"], "no metric"),
        (["--baseline", "t.csv", "--candidate", "s.csv", "--max-drop", "1"], "t.csv: no such file"),
    ],
)
def test_what_is_asked_wrongly(arguments, said):
    with pytest.raises(EdgeKDError, match=said):
        gate("gate", *arguments)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alpha = 0.05", "the margin of accuracy is max_drop_pp, or max_relative_drop; here is neither"),
        ("max_drop_pp = 1.0\nmax_drop = 0.1", "here stand max_drop_pp and max_drop"),
        ('metric = "auc"\nmax_drop_pp = 1.0', "the margin of auc is max_drop"),
        ('metric = "hit@5"\nmax_drop_pp = 1.0', "name their column"),
        ('max_drop_pp = 1.0\nquery = "q"', "query goes with ndcg@K and hit@K"),
        ("max_drop_pp = 1.0\n[gate.slices.label]\nmax_drop_pp = 3.0", "need expected_discordance"),
        ("max_drop_pp = 1.0\n[gate.slices.label]\nmax_drop = 3.0", "slices.label: the margin of accuracy is"),
        ("max_drop_pp = 1.0\nmax_drop_pp_ = 1", "max_drop_pp_"),
        ("max_drop_pp = nan", "max_drop_pp"),
        ('metric = "auc"\nmax_drop = 1.0', "max_drop = 1: auc lies between 0 and 1"),
        (
            'metric = "f1"\nmax_drop = 0.1\n[gate.slices.label]\nmax_drop = 2.0',
            "slices.label: max_drop = 2: f1",
        ),
        ('max_drop_pp = 1.0\nrequired_targets = ["host"]', "need a report"),
        ('max_drop_pp = 1.0\ncluster = "label"', "the samples of a class are no cluster"),
        ('metric = "auc"\nmax_drop = 0.1\ncluster = "user"', "auc is judged by samples and absolutely"),
        ('metric = "auc"\nmax_relative_drop = 0.1', "auc is judged by samples and absolutely"),
    ],
)
def test_policies_that_are_wrong(tmp_path, text, said):
    _, path = policy(tmp_path, text)
    with pytest.raises(UsageError, match=said):
        own_predictions.policy_of(Path(path), None, None, None)
