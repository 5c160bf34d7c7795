import itertools
import re
import tomllib

import pytest
from filled_reports import class_drop, filled, slice_of

from edgekd.report import words
from edgekd.report.markdown import escape, markdown
from edgekd.report.records import LayerSensitivity, MemberRecord, PredictedLatency
from edgekd.report.schema import parse
from edgekd.report.sensitivity import sensitivity_bars
from edgekd.report.waterfall import scale, waterfall, worst_sentence


def table_after(text, heading):
    """Rows of the first table below a heading, as lists of cells."""
    lines = text.split(heading, 1)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def test_verdict_is_said_in_words(make):
    text = markdown(parse(make("PASS")))
    assert text.startswith("# fashion-mnist: PASS\n")
    assert "every file loses less than 1.0 pp of accuracy against the teacher, with 95% confidence" in text
    assert "- Test samples: **10,000**" in text
    assert "- Margin: **1.0 pp**" in text
    assert "Why this margin: what 10,000 test samples can support" in text
    failed = markdown(parse(make("FAIL")))
    assert "**FAIL.** Accuracy drop on x86-onnx fails: 1.62 pp observed, limit 1.00 pp." in failed
    undecided = markdown(parse(make("INCONCLUSIVE")))
    assert "**INCONCLUSIVE.** Accuracy drop on host cannot be decided: 0.31 pp observed" in undecided
    assert "; 1 more check is undecided too." in undecided
    assert "about 2,610 would decide." in undecided


def test_waterfall_rows_have_the_reports_numbers(sample):
    rows = table_after(markdown(parse(sample)), "## What each step cost")
    assert rows[0][:5] == ["Step", "Accuracy, %", "Drop, pp", "90% interval, pp", "This step, pp"]
    found = {row[0].lstrip("\u2003└ "): row[1:5] for row in rows[2:]}
    assert found["Teacher"] == ["94.63", "–", "–", "–"]
    # Half-width by hand: 1.645 * sqrt(0.03 / 10000) = 0.285 pp.
    assert found["Pruned"] == ["94.36", "+0.27", r"\[−0.01, +0.55\]", "+0.22"]
    assert found["Quantized"][3] == "−0.05"
    assert found["x86-onnx (required)"] == ["94.27", "+0.36", r"\[+0.08, +0.64\]", "+0.14"]


def test_steps_add_up_to_the_drop_along_every_branch(many):
    fall = waterfall(many)
    by_id = {row.id: row for row in fall.rows}
    parents = {s.id: s.parent_id for s in many.stages}
    for artifact in many.artifacts:
        if artifact.role != "target":
            continue
        total, stage = by_id[artifact.id].step, artifact.stage_id
        while stage != "teacher-90ab":
            total, stage = total + by_id[stage].step, parents[stage]
        assert total == pytest.approx(artifact.metrics[0].drop)
    assert len(fall.rows) == 1 + 5 + 8


def test_rows_are_indented_only_where_the_tree_branches(sample, many):
    straight = {row.id: row.guides for row in waterfall(parse(sample)).rows}
    assert straight["quantize-a"] == () and straight["host"] == ("tee",)
    assert straight["raspberry-pi-4"] == ("elbow",)
    forked = {row.id: row.guides for row in waterfall(many).rows}
    assert forked["prune-a"] == ("tee",) and forked["quantize-a"] == ("line",)
    assert forked["raspberry-pi-5"] == ("line", "elbow")
    assert forked["prune-b"] == ("elbow",) and forked["edge-npu"] == ("blank", "blank")


def test_the_step_that_lost_most_is_named(make, many):
    assert worst_sentence(waterfall(many)) == (
        "The step that lost most: quantization for edge-npu, 0.31 pp as observed."
    )
    failed = waterfall(parse(make("FAIL")))
    assert worst_sentence(failed) == (
        "The step that lost most: writing the file for x86-onnx, 1.40 pp as observed."
    )
    doubtful = worst_sentence(waterfall(parse(make("PASS"))))
    assert "pruning, 0.22 pp" in doubtful and "not distinguishable from none" in doubtful


def test_no_step_is_blamed_where_none_lost(sample):
    for stage in sample["stages"][1:]:
        stage["metrics"][0].update(drop=-0.1, drop_interval=[-0.3, 0.1])
    for artifact in sample["artifacts"]:
        artifact["metrics"][0].update(drop=-0.1, drop_interval=[-0.3, 0.1])
    assert worst_sentence(waterfall(parse(sample))) == "No step lost accuracy as observed."


def test_files_table(sample):
    rows = table_after(markdown(parse(sample)), "## Files")
    host = rows[2]
    assert host[0] == "host (required)"
    assert host[2:8] == ["196.6", "94.32", r"+0.31 \[+0.03, +0.59\]", "0.371", "0.397", "measured"]
    assert host[8:] == [r"24.13 \[23.60, 24.70\]", r"2.41 \[2.33, 2.48\]", "100", "0.23 steps, mean"]
    teacher = next(r for r in rows if r[0] == "Teacher in float" and r[1] == "tflite, fp32")
    # Timed beside three TFLite files: 24.13 times 0.3712, 0.4538 and 0.4951 ms.
    assert teacher[5] == "8.957–11.947" and teacher[7] == "measured and host"
    assert "host: timed on another computer, standing in" in markdown(parse(sample))


def test_a_file_is_shown_as_timed_under_its_own_target(sample):
    slow = next(m for m in sample["measurements"] if m["artifact_id"] == "host")
    sample["measurements"].insert(
        0, slow | {"target": "raspberry-pi-4", "median_ms": 9.0, "kind": "emulated"}
    )
    host = table_after(markdown(parse(sample)), "## Files")[2]
    assert host[5] == "0.371" and host[7] == "measured"


def test_many_checks_are_folded_and_those_that_do_not_pass_stand_above(sample):
    text = markdown(parse(sample))
    rows = table_after(text, "## Checks")[2:]
    assert [row[:3] for row in rows] == [
        ["INCONCLUSIVE", name, "Latency, p90"] for name in ("android-cpu", "raspberry-pi-4")
    ]
    folded = table_after(text, "<details><summary>14 checks: passed, or not applicable</summary>")[2:]
    assert len(folded) == 14 and {row[0] for row in folded} == {"PASS"}
    assert all(row[1].endswith("(required)") for row in folded[:8])
    assert folded[0][2:6] == ["Accuracy drop", "0.31", "1.00", "pp"]
    assert not any(row[1].endswith("(required)") for row in folded[8:])
    after = text[text.index("## Checks") : text.index("## Details")]
    assert after.count("<details>") == after.count("</details>") == 1
    for check in sample["verdict"]["checks"]:
        check.update(status="PASS")
    section = markdown(parse(sample)).split("## Checks\n\n")[1]
    assert section.startswith("<details><summary>16 checks: passed")


def test_few_checks_stand_in_one_table_those_that_decide_first(make):
    text = markdown(parse(make(targets=("android-cpu", "host"))))
    rows = table_after(text, "## Checks")[2:]
    assert [row[1] for row in rows] == ["host (required)"] * 4 + ["android-cpu"] * 4
    assert rows[6][0] == "INCONCLUSIVE" and "not applicable</summary>" not in text


def test_every_table_is_rectangular(many):
    widths = set()
    for line in markdown(many).splitlines():
        if line.startswith("|"):
            widths.add(len(re.split(r"(?<!\\)\|", line)))
        elif widths:
            assert len(widths) == 1
            widths = set()


def test_hostile_text_is_escaped(sample):
    sample["class_names"][0] = "<script>alert(1)</script>"
    sample["recipe"]["name"] = "a|b\n# `c` <img src=x>"
    sample["recipe"]["description"] = "```\n</details>"
    sample["host"]["cpu"] = "<script>|\n|"
    text = markdown(parse(sample))
    prose = text.split("````toml\n")[0]  # inside the fence, which is longer than any in it, all is text
    assert "<script" not in prose and "<img" not in prose and "</details>\n\n" in prose
    assert text.endswith("\n````\n\n</details>\n")
    assert text.startswith(r"# a\|b \# \`c\` &lt;img src=x&gt;: PASS")
    assert escape("x_y*[z]") == r"x\_y\*\[z\]"


def test_a_teacher_that_could_not_be_exported(sample):
    sample["teacher"]["not_exported"] = "TFLite: no erfinv"
    found = " ".join(words.cautions(parse(sample)))
    assert "could not be exported everywhere (TFLite: no erfinv)" in found


def test_cautions(sample):
    sample["judgements"] = 12
    sample["recipe"]["smoke"] = True
    sample["artifacts"] = [a for a in sample["artifacts"] if a["role"] != "teacher_float"]
    sample["measurements"] = [m for m in sample["measurements"] if not m["artifact_id"].startswith("teacher")]
    sample["teacher"]["artifact_ids"] = []
    found = " ".join(words.cautions(parse(sample)))
    assert "A smoke run" in found and "judgement 12 of this test split" in found
    assert "android-cpu and raspberry-pi-4 was not measured on the device" in found
    assert "no float file" in found
    sample["recipe"]["teacher"] = None
    assert "against the float student" in markdown(parse(sample))


def test_level_of_the_interval_follows_alpha(sample):
    sample["gate"]["policy"]["alpha"] = 0.025
    assert "95% interval, pp" in markdown(parse(sample))
    sample["gate"] = {"alpha": 0.01}
    assert "98% interval, pp" in markdown(parse(sample))


@pytest.mark.parametrize(
    "ends", [(0.0, 1.0), (-0.28, 0.81), (-1.45, 1.86), (0.0, 0.0), (-3e-4, 7e-4), (0, 61)]
)
def test_axis_holds_its_ends_with_round_ticks(ends):
    low, high, ticks = scale(*ends)
    assert low < ends[0] and ends[1] < high
    assert 3 <= len(ticks) <= 9 and all(low <= t <= high for t in ticks)
    steps = {round(b - a, 9) for a, b in itertools.pairwise(ticks)}
    assert len(steps) == 1
    assert f"{steps.pop():.6e}"[:3].rstrip(".0") in {"1", "2", "2.5", "5"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (words.number(-0.001, 2), "0.00"),
        (words.number(-1234.567, 1), "−1,234.6"),
        (words.number(None, 2), "–"),
        (words.signed(0.004, 2), "0.00"),
        (words.signed(0.05, 2), "+0.05"),
        (words.short(11_173_962), "11.2 M"),
        (words.short(999), "999"),
        (words.plain(0.0167), "0.0167"),
        (words.plain(0.00001), "1e−05"),
        (words.plain(400_000), "400,000"),
        (words.amount(7.8125, "pp"), "7.81"),
        (words.amount(0.047, "ms"), "0.047"),
        (words.amount(231_824, "bytes"), "231,824"),
        (words.amount(0.25, "dB"), "0.25"),
        (words.amount(None, "pp"), "–"),
        (words.margin_text(1.0, "percent"), "1.0 pp"),
        (words.margin_text(0.75, "percent"), "0.75 pp"),
        (words.listed(["a", "b", "c"]), "a, b and c"),
        (words.listed([]), "none"),
    ],
)
def test_numbers_in_words(text, expected):
    assert text == expected


def test_recipe_as_toml_reads_back(sample):
    recipe = sample["recipe"] | {"task": {"kind": 'a "b"\\', "limit": 3, "path\nx": [1.5, True]}}
    report = parse(sample | {"recipe": recipe})

    def without_none(value):
        if isinstance(value, dict):
            return {k: without_none(v) for k, v in value.items() if v is not None}
        return value

    assert tomllib.loads(words.toml(report.recipe.config)) == without_none(recipe)


def test_a_latency_by_the_table_has_a_column_where_something_was_pruned_to_one(make):
    report = parse(make("PASS"))
    assert "latency table" not in markdown(report)
    told = PredictedLatency(whole_ms=0.25, pruned_ms=0.124, limit_ms=0.125, kind="host")
    stages = (report.stages[0].model_copy(update={"predicted_latency": told}), *report.stages[1:])
    rows = table_after(markdown(report.model_copy(update={"stages": stages})), "<summary>Stages</summary>")
    assert rows[0][-1] == "By latency table, ms"
    assert rows[2][-1].startswith("0.124 of 0.25, asked 0.125; on another computer, standing in")
    assert {row[-1] for row in rows[3:]} == {words.ABSENT}


def test_what_a_file_took_elsewhere_is_no_answer_to_what_the_target_was_asked_for(make):
    report = parse(make("PASS"))
    shipped = next(a for a in report.artifacts if a.target is not None)
    told = PredictedLatency(whole_ms=2000, pruned_ms=0.001, limit_ms=0.001, kind="host")
    stages = tuple(s.model_copy(update={"predicted_latency": told}) for s in report.stages)
    assert {m.kind for m in report.measurements if m.artifact_id == shipped.id} == {"measured"}
    assert f"{shipped.target} took" not in markdown(report.model_copy(update={"stages": stages}))


@pytest.mark.parametrize(("limit_ms", "missed"), [(1000.0, ""), (0.001, ", more")])
def test_beside_the_table_stands_what_the_file_took(make, limit_ms, missed):
    report = parse(make("PASS"))
    shipped = next(a for a in report.artifacts if a.target is not None)
    (median,) = (m.median_ms for m in report.measurements if m.artifact_id == shipped.id)
    told = PredictedLatency(whole_ms=2000, pruned_ms=limit_ms, limit_ms=limit_ms, kind="measured")
    last = next(s for s in report.stages if shipped.target in s.targets)
    stages = [s.model_copy(update={"predicted_latency": told if s is last else None}) for s in report.stages]
    changed = report.model_copy(update={"stages": tuple(stages)})
    rows = table_after(markdown(changed), "<summary>Stages</summary>")
    (told_row,) = (row[-1] for row in rows[2:] if row[-1] != words.ABSENT)
    assert f"; {shipped.target} took {median:.3g}{missed};" in f"{told_row};"


def test_blocks_that_are_gone_have_a_column_where_there_are_any(make):
    report = parse(make("PASS"))
    assert "Blocks taken out" not in markdown(report)
    gone = report.stages[1].model_copy(update={"removed_blocks": ("blocks.0", "blocks.2")})
    stages = (report.stages[0], gone, *report.stages[2:])
    rows = table_after(markdown(report.model_copy(update={"stages": stages})), "<summary>Stages</summary>")
    assert rows[0][-1] == "Blocks taken out"
    assert [row[-1] for row in rows[2:5]] == [words.ABSENT, "blocks.0, blocks.2", words.ABSENT]


def test_teachers_that_teach_as_one_are_told_one_by_one(make):
    report = parse(make("PASS"))
    assert "teach as one" not in markdown(report)
    members = (
        MemberRecord(id="teacher-1", accuracy=94.25, weight=0.75, seconds=10.0),
        MemberRecord(id="teacher-2", accuracy=90.0, weight=None, seconds=0.5),
    )
    teacher = report.teacher.model_copy(update={"members": members})
    text = markdown(report.model_copy(update={"teacher": teacher}))
    rows = table_after(text, "<summary>Teachers that teach as one</summary>")
    assert rows[2:] == [["teacher-1", "94.25", "0.750", "10.0"], ["teacher-2", "90.00", words.ABSENT, "0.5"]]


def told_of_layers(report):
    """The report with three layers measured, one of them and one more in float."""
    costs = (("stem", 0.1234, 1.5), ("blocks.0", 0.05, -0.25), ("head", 0.0, 0.0))
    found = tuple(LayerSensitivity(path=p, logit_error=e, drop_pp=d) for p, e, d in costs)
    more = {"sensitivity": found, "float_layers": ("stem", "tail")}
    more["float_costs_ms"] = {"litert": {"stem": 0.0123}, "onnxruntime": {"stem": -0.004, "head": 9.0}}
    stages = (*report.stages[:-1], report.stages[-1].model_copy(update=more))
    return report.model_copy(update={"stages": stages})


def test_layers_are_listed_with_what_they_cost_and_what_they_are_emitted_in(make):
    report = parse(make("PASS"))
    assert "Sensitivity" not in markdown(report)
    rows = table_after(markdown(told_of_layers(report)), "<summary>Sensitivity of layers to 8 bits</summary>")
    assert [row[1:] for row in rows[2:]] == [
        ["stem", "12.340", "+1.50", "float, +0.012 ms here in litert, −0.004 ms here in onnxruntime"],
        ["blocks.0", "5.000", "−0.25", "int8"],
        ["head", "0.000", "0.00", "int8"],
        ["tail", words.ABSENT, words.ABSENT, "float"],
    ]


def test_bars_of_layers_are_to_scale_and_the_costliest_are_shown(make):
    report = parse(make("PASS"))
    assert sensitivity_bars(report) == ()
    (group,) = sensitivity_bars(told_of_layers(report))
    assert [(bar.label, bar.text, bar.note, bar.reference) for bar in group.bars] == [
        ("stem", "12.34", "+1.50 pp · float", True),
        ("blocks.0", "5.00", "−0.25 pp", False),
        ("head", "0.00", "0.00 pp", False),
    ]
    assert [bar.share for bar in group.bars] == pytest.approx([1, 0.05 / 0.1234, 0])
    assert "in the details" not in group.title
    stage = report.stages[-1]
    many = tuple(LayerSensitivity(path=f"l{i}", logit_error=1 / (i + 1), drop_pp=0.0) for i in range(20))
    longer = report.model_copy(update={"stages": (stage.model_copy(update={"sensitivity": many}),)})
    (group,) = sensitivity_bars(longer)
    assert len(group.bars) == 16 and group.title.endswith("4 layers that cost less stand in the details")


def test_accuracy_under_attack_has_a_column_where_something_was_attacked(make):
    report = parse(make("PASS"))
    assert "under attack" not in markdown(report)
    stages = [s.model_copy(update={"robust_accuracy": 41.256}) for s in report.stages[:1]]
    attacked = report.model_copy(update={"stages": (*stages, *report.stages[1:])})
    rows = table_after(markdown(attacked), "<summary>Stages</summary>")
    assert rows[0][-1] == "Accuracy under attack, %" and len(rows[0]) == len(rows[1])
    assert [row[-1] for row in rows[2:4]] == ["41.26", words.ABSENT]


def test_slices_stand_in_a_table_the_worst_first(make):
    text = markdown(parse(filled(make("FAIL"))))
    assert "3 slices must pass, each with its own margin: 1 PASS, 1 FAIL and 1 INCONCLUSIVE." in text
    rows = table_after(text, "## Slices")
    assert rows[0][:5] == ["Status", "Slice", "File", "Samples", "Drop, pp"]
    assert rows[2][:2] == ["FAIL", "label = Coat"] and rows[2][3:7] == [
        "2,000",
        "+3.25",
        r"\[+2.75, +3.75\]",
        "2.00",
    ]
    assert [row[0] for row in rows[2:]] == ["FAIL", "INCONCLUSIVE", "PASS"]
    assert rows[3][-1] == "no samples"
    assert "## Slices" not in markdown(parse(make("FAIL")))


def test_classes_and_flips_stand_in_the_details(make):
    text = markdown(parse(filled(make("PASS"))))
    rows = table_after(text, "Drop by class: host, x86-onnx, android-cpu and raspberry-pi-4</summary>")
    assert rows[2] == ["Coat", "2,000", "90.00", "88.00", "60", "20", "+2.00", r"\[+1.25, +2.75\]"]
    rows = table_after(text, "Flips: host, x86-onnx, android-cpu and raspberry-pi-4</summary>")
    assert rows[2] == ["Coat", "Pullover", "100", "60", "30", "10"]


def test_a_comment_on_a_pull_request_holds_it_whatever_the_number_of_classes(make):
    data = filled(make("FAIL"))
    for i, artifact in enumerate(a for a in data["artifacts"] if a["role"] == "target"):
        artifact["slices"] = [slice_of(f"class {k}", 50, 0.01 * i, True, "PASS") for k in range(1000)]
        worst = [class_drop(k, 50, 45, 5, i, [-1.0, 20.0]) for k in range(100)]
        artifact["class_drops"] = {"worst": worst, "left_out": 900, "without_samples": 0}
    text = markdown(parse(data))
    assert "4,000 slices must pass" in text and "; the worst of each are listed." in text
    assert "(the first 10 of 100)" in text
    assert len(text) < 65_536
