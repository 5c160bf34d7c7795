import copy
import json
from pathlib import Path

import jsonschema
import pytest

from edgekd.errors import StoreError, UsageError
from edgekd.report.files import write
from edgekd.report.schema import SCHEMA_PATH, Report, dumps, json_schema, parse


def edited(sample, path, value):
    found = copy.deepcopy(sample)
    *outer, last = path
    place = found
    for key in outer:
        place = place[key]
    if value is REMOVED:
        del place[last]
    else:
        place[last] = value
    return found


REMOVED = object()
WRONG = {
    "missing key": (("artifacts", 0, "size_bytes"), REMOVED, "'artifacts[0].size_bytes' is missing"),
    "missing table": (("verdict",), REMOVED, "'verdict' is missing"),
    "unknown key": (("stages", 1, "flops"), 3, "unknown key 'stages[1].flops'"),
    "text for a number": (("measurements", 2, "median_ms"), "fast", "measurements[2].median_ms = 'fast'"),
    "float for a count": (("data", "splits", "test", "n"), 1.5, "data.splits.test.n = 1.5"),
    "unknown kind": (("measurements", 0, "kind"), "guessed", "measurements[0].kind = 'guessed'"),
    "unknown status": (("verdict", "status"), "MAYBE", "verdict.status = 'MAYBE'"),
    "short checksum": (("artifacts", 0, "files", 0, "sha256"), "abc", "artifacts[0].files[0].sha256 = 'abc'"),
    "share above one": (("artifacts", 0, "agreement"), 97.1, "artifacts[0].agreement = 97.1"),
    "half an interval": (("stages", 1, "metrics", 0, "drop_interval"), [0.1], "drop_interval[1]"),
}
INCONSISTENT = {
    "exit code": (("verdict", "exit_code"), 1, "exit_code is 1, PASS means 0"),
    "orphan stage": (("stages", 1, "parent_id"), "ghost", "parent 'ghost'"),
    "stage under itself": (("stages", 1, "parent_id"), "student-7f2c", "does not stand before it"),
    "two stages alike": (("stages", 1, "id"), "teacher-90ab", "two stages have the id 'teacher-90ab'"),
    "orphan file": (("artifacts", 4, "stage_id"), "ghost", "names no stage: 'ghost'"),
    "orphan timing": (("measurements", 0, "artifact_id"), "ghost", "names no artifact: 'ghost'"),
    "size": (("artifacts", 4, "size_bytes"), 1, "is not the sum"),
    "role": (("artifacts", 4, "role"), "student_float", "has role 'student_float'"),
    "interval": (("stages", 1, "metrics", 0, "drop_interval"), [0.5, 0.1], "lower end above"),
    "calibration": (("data", "calibration", "n"), 511, "n is 511, but ids holds 512"),
}


def test_the_names_other_programs_rely_on(sample):
    report = json.loads(dumps(parse(sample)))
    assert {"schema_version", "recipe", "seed", "versions", "host", "data", "stages"} <= report.keys()
    assert {"n", "sha256"} <= report["data"]["splits"]["val"].keys()
    assert {"n", "ids_sha256"} <= report["data"]["calibration"].keys()
    assert {"params", "macs", "metrics", "size_bytes"} <= report["teacher"].keys()
    stage = "id parent_id name targets params macs metrics seconds"
    assert set(stage.split()) <= report["stages"][0].keys()
    artifact = (
        "id stage_id target required format scheme files size_bytes metrics agreement negative_flip_rate "
        "parity inventory input_spec speedup_over_teacher speedup_over_float"
    )
    assert set(artifact.split()) <= report["artifacts"][0].keys()
    assert {"path", "sha256", "size_bytes", "deflated_bytes"} == report["artifacts"][0]["files"][0].keys()
    assert {"max_abs", "mean_steps", "argmax_agreement"} <= report["artifacts"][0]["parity"].keys()
    assert {"ops", "int8_ops", "float_ops"} == report["artifacts"][0]["inventory"].keys()
    timing = "artifact_id device runtime delegate kind num_threads num_runs median_ms p90_ms first_ms"
    assert {*timing.split(), "peak_memory_bytes", "raw_path"} <= report["measurements"][0].keys()
    metric = "name direction unit value drop drop_interval margin"
    assert set(metric.split()) == report["stages"][0]["metrics"][0].keys()
    check = "name target observed limit unit status detail slice"
    assert set(check.split()) == report["verdict"]["checks"][0].keys()


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE"])
def test_round_trip_loses_nothing(make, verdict):
    data = make(verdict)
    report = parse(data)
    assert json.loads(dumps(report)) == data
    assert parse(dumps(report)) == report


def test_same_report_same_bytes(sample):
    backwards = dict(reversed(sample.items()))
    assert dumps(parse(sample)) == dumps(parse(backwards))
    assert dumps(parse(sample)).endswith("}\n")
    keys = list(json.loads(dumps(parse(sample))))
    assert keys == sorted(keys)


def test_committed_schema_is_the_generated_one():
    assert json.loads(SCHEMA_PATH.read_text(encoding="utf-8")) == json_schema(), (
        "write json_schema() to report.schema.json again"
    )


def test_json_schema_is_valid_and_takes_the_sample(make):
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.check_schema(json_schema())
    for verdict in ("PASS", "FAIL", "INCONCLUSIVE"):
        validator.validate(json.loads(dumps(parse(make(verdict)))))


@pytest.mark.parametrize("case", WRONG)
def test_both_schemas_refuse_what_is_wrong(sample, case):
    path, value, said = WRONG[case]
    wrong = edited(sample, path, value)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, json_schema())
    with pytest.raises(UsageError) as error:
        parse(wrong)
    assert said in str(error.value)


@pytest.mark.parametrize("case", INCONSISTENT)
def test_what_does_not_fit_together_is_refused(sample, case):
    path, value, said = INCONSISTENT[case]
    with pytest.raises(UsageError) as error:
        parse(edited(sample, path, value))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (0, "schema_version = 0, this edgekd reads schema_version 1 (reports of that version cannot"),
        (2, "schema_version = 2, this edgekd reads schema_version 1 (install a newer edgekd)"),
        ("1", "schema_version = '1'"),
        (True, "schema_version = True"),
        (REMOVED, "key 'schema_version' is missing"),
    ],
)
def test_another_version_is_refused_in_words(sample, version, said):
    with pytest.raises(UsageError) as error:
        parse(edited(sample, ("schema_version",), version))
    assert said in str(error.value)
    assert error.value.exit_code == 2


def test_errors_name_the_file(tmp_path, sample):
    path = tmp_path / "report.json"
    with pytest.raises(UsageError, match=r"report\.json: no such file"):
        parse(path)
    path.write_text(dumps(parse(sample))[:-200])
    with pytest.raises(UsageError, match=r"report\.json: not valid JSON: .*line"):
        parse(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"report\.json: cannot be read"):
        parse(path)
    path.write_text("[1]")
    with pytest.raises(UsageError, match="a report is a JSON object, not a list"):
        parse(path)
    path.write_text(json.dumps(edited(sample, ("seed",), REMOVED)))
    with pytest.raises(UsageError, match=r"report\.json: key 'seed' is missing"):
        parse(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_never_gets_in_or_out(sample, bad):
    with pytest.raises(UsageError, match="JSON"):
        parse(edited(sample, ("stages", 0, "seconds"), bad))
    with pytest.raises(UsageError, match="JSON"):
        parse(edited(sample, ("host", "load"), bad))
    text = dumps(parse(sample)).replace('"seed": 7', '"seed": NaN', 1)
    with pytest.raises(UsageError, match="NaN is no JSON number"):
        parse(text)
    slipped = parse(sample).model_copy(update={"host": {"load": bad}})
    with pytest.raises(UsageError, match="cannot be written as JSON"):
        dumps(slipped)


def test_a_report_cannot_be_changed(sample):
    report = parse(sample)
    with pytest.raises(ValueError, match="frozen"):
        report.seed = 8
    assert isinstance(report, Report) and isinstance(report.stages, tuple)


def test_write_leaves_four_whole_files(tmp_path, sample):
    report = parse(sample)
    write(report, tmp_path / "run")
    names = sorted(p.name for p in (tmp_path / "run").iterdir())
    assert names == ["report.html", "report.json", "report.junit.xml", "report.md"]
    assert parse(tmp_path / "run" / "report.json") == report
    first = {n: (tmp_path / "run" / n).read_bytes() for n in names}
    write(parse(sample), tmp_path / "run")
    assert first == {n: (tmp_path / "run" / n).read_bytes() for n in names}


def test_a_failed_write_keeps_the_old_report_and_leaves_no_scraps(tmp_path, sample, monkeypatch):
    write(parse(sample), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgekd.store.os.fsync", full)
    with pytest.raises(StoreError, match="no space left"):
        write(parse(edited(sample, ("seed",), 9)), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


ODD_FIGURES = {
    "flips": (("artifacts", -1, "flips", "n"), 209, "do not make up the 209 samples"),
    "pair": (("artifacts", -1, "flips", "pairs", 0, "won"), 41, "flips from 4 to 2 do not add up"),
    "no flip": (("artifacts", -1, "flips", "pairs", 0, "file_class"), 4, "flips from 4 to 4"),
    "class": (("artifacts", -1, "class_drops", "worst", 0, "file_right"), 1761, "counts of class 4"),
    "no samples": (("artifacts", -1, "class_drops", "worst", 0, "n"), 0, "worst[0].n = 0"),
    "quantiles": (("measurements", 0, "distribution", "quantiles_ms", 0), 0.32, "not in order"),
    "range": (("measurements", 0, "distribution", "low_ms"), 0.7, "not in order"),
    "bins": (("measurements", 0, "distribution", "counts"), [1] * 41, "distribution.counts"),
    "bytes": (("artifacts", 0, "contents", "by_dtype", "int32"), -1, "by_dtype.int32 = -1"),
    "answers": (("gallery", "samples", 0, "answers"), {}, "gallery.samples[0].answers"),
}


@pytest.mark.parametrize("case", ODD_FIGURES)
def test_figures_that_do_not_add_up_are_refused(full, case):
    path, value, said = ODD_FIGURES[case]
    with pytest.raises(UsageError) as error:
        parse(edited(full, path, value))
    assert said in str(error.value)


def test_figures_go_through_both_schemas_unchanged(full):
    written = json.loads(dumps(parse(full)))
    assert written == json.loads(json.dumps(full))
    jsonschema.validate(written, json_schema())


def test_reports_from_before_the_figures_are_read(sample):
    old = copy.deepcopy(sample)
    del old["gallery"]
    for artifact in old["artifacts"]:
        for key in (
            "class_drops",
            "flips",
            "contents",
            "contents_unread",
            "slices",
            "roofline",
            "roofline_absent",
        ):
            del artifact[key]
    for measurement in old["measurements"]:
        del measurement["distribution"]
    assert parse(old) == parse(sample)


@pytest.mark.parametrize("name", ["digits", "fashion-mnist", "fashion-mnist-tiny"])
def test_committed_reports_are_read(name):
    folder = Path(__file__).parents[2] / "reports" / name
    assert parse(folder / "report.json").verdict.status in ("PASS", "FAIL", "INCONCLUSIVE")
