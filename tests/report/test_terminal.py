"""What the terminal shows of a report and of a verdict on predictions."""

from filled_reports import filled, slice_of
from typer.testing import CliRunner

from edgekd import cli, terminal_report
from edgekd.report.schema import parse


def rows_of(text):
    """The slices of each table, in its order: their first three words."""
    return [line.split()[:3] for line in text.splitlines() if line.strip().startswith("label = ")]


def test_slices_of_a_report_are_one_table_the_worst_first(make, told):
    data = filled(make("FAIL"))
    for artifact in data["artifacts"]:
        if artifact["role"] == "target" and not artifact["required"]:
            artifact["slices"] = [slice_of("Dress", 10, 9.0, False, "NOT_APPLICABLE", alarm=True)]
    check = dict(data["verdict"]["checks"][0], name="slice", slice=["label", "Coat"], detail="label = Coat")
    data["verdict"]["checks"] += [check, dict(check, target="x86-onnx")]
    text = told(terminal_report.show_verdict, parse(data))
    assert "slice: host" not in text and text.count("\n    label = Coat") == 0
    required, others = text.split("checks of other targets")
    assert rows_of(required) == [["label", "=", name] for name in ("Coat", "Bag", "Trouser")]
    assert "slices of host and x86-onnx: 3 slices must pass" in required
    coat, bag, _ = (line.split() for line in required.splitlines() if line.strip().startswith("label ="))
    assert coat[3:] == ["2,000", "+3.25", "[+2.75,", "+3.75]", "2.00", "FAIL"]
    assert bag[3:8] == ["4", "–", "–", "2.00", "INCONCLUSIVE"]
    assert "slices of android-cpu and raspberry-pi-4: 0 slices that need not pass" in others
    assert rows_of(others) == [["label", "=", "Dress"]] and "ALARM" in others
    assert max(len(line) for line in text.splitlines()) <= 80


def test_slices_of_predictions_stand_as_those_of_a_report(tmp_path):
    rows = [f"s{i},{'ab'[i % 2]},{'ab'[i % 2]}" for i in range(2000)]
    wrong = [row[:-1] + "a" if i < 200 else row for i, row in enumerate(rows)]
    for name, lines in (("teacher", rows), ("student", wrong)):
        (tmp_path / f"{name}.csv").write_text("\n".join(["sample_id,label,prediction", *lines]))
    (tmp_path / "policy.toml").write_text(
        "[gate]\nmax_drop_pp = 20.0\nexpected_discordance = 0.01\n[gate.slices.label]\nmax_drop_pp = 5.0\n"
    )
    arguments = ("--baseline", "teacher.csv", "--candidate", "student.csv", "--policy", "policy.toml")
    paths = [str(tmp_path / a) if "." in a else a for a in arguments]
    found = CliRunner().invoke(cli.app, ["gate", *paths])
    assert found.exit_code == 1, found.output
    assert "2 slices must pass, each with its own margin: 1 PASS and 1 FAIL." in found.output
    assert rows_of(found.output) == [["label", "=", "b"], ["label", "=", "a"]]
