"""The job summary, and how long it and report.md may be."""

import re

import pytest

from edgekd.report.fitting import BODY, LIMIT, Block, fitted, shortened, whole
from edgekd.report.markdown import escape, markdown
from edgekd.report.schema import parse
from edgekd.report.summary import summary

SLICES = 1000


def large(make, status="PASS", words_each=12):
    """Twelve targets; a thousand classes whose slices are mandatory: 12,048 checks."""
    data = make("PASS", targets=("host", "x86-onnx"))
    template = next(a for a in data["artifacts"] if a["target"] == "x86-onnx")
    timing = next(m for m in data["measurements"] if m["artifact_id"] == "x86-onnx")
    names = [f"device-{i:02d}" for i in range(10)]
    data["artifacts"] = [*data["artifacts"], *(dict(template, id=n, target=n, required=True) for n in names)]
    data["measurements"] += [dict(timing, artifact_id=n, target=n) for n in names]
    data["class_names"] = [f"class {i}, a name of some length" for i in range(SLICES)]
    base = data["verdict"]["checks"][0]
    data["verdict"]["checks"] = [
        dict(base, target=n, name="slice", slice=["label", c], status=status, detail=c + " said" * words_each)
        for n in ("host", "x86-onnx", *names)
        for c in data["class_names"]
    ] + [dict(base, target=n) for n in ("host", "x86-onnx", *names)]
    if status != "PASS":
        data["verdict"].update(status=status, exit_code={"FAIL": 1, "INCONCLUSIVE": 3}[status])
    return data


def sound(text):
    """Nothing is cut in two: every table has rows of one width, every <details> its end."""
    assert text.count("<details>") == text.count("</details>") == text.count("<summary>")
    assert text.count("```") % 2 == 0
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for block in re.split(r"\n\n+", plain):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            cells = [len(re.split(r"(?<!\\)\|", line)) for line in lines]
            assert len(set(cells)) == 1, lines[0]
            assert re.fullmatch(r"(\| -+:? )+\|", lines[1])


@pytest.mark.parametrize("status", ["PASS", "FAIL", "INCONCLUSIVE"])
@pytest.mark.parametrize("words_each", [0, 12, 120])
def test_a_large_report_fits_into_a_comment(make, status, words_each):
    report = parse(large(make, status, words_each))
    for text in (markdown(report), summary(report)):
        assert 10_000 < len(text) <= LIMIT or (text.startswith("## edgekd") and status == "PASS")
        sound(text)
        assert status in text.splitlines()[0]
    text = markdown(report)
    left = int(re.search(r"_([\d,]+) more rows stand in report\.html\._", text)[1].replace(",", ""))
    shown = len(re.findall(r"^\| (?:PASS|FAIL|INCONCLUSIVE) \|", text, re.MULTILINE))
    assert left + shown == 12 * SLICES + 12
    assert "## Details" in text and "<summary>Data</summary>" in text  # the checks do not push it out


def test_what_failed_stands_first_where_checks_are_left_out(make):
    data = large(make)
    data["verdict"]["checks"][-1].update(status="FAIL", detail="this one")
    data["verdict"].update(status="FAIL", exit_code=1)
    text = markdown(parse(data))
    (first, *_) = re.findall(r"^\| (?:PASS|FAIL|INCONCLUSIVE) \|.*", text, re.MULTILINE)
    assert first.startswith("| FAIL | device-09 (required)") and "this one" in first


def test_a_report_that_fits_is_whole(make):
    text = markdown(parse(make("FAIL")))
    assert "more row" not in text and "Left out" not in text
    assert text.rstrip().endswith("</details>") and "<summary>Recipe</summary>" in text


def test_a_report_a_little_too_long_is_made_to_fit(make):
    data = make("PASS")
    checks = data["verdict"]["checks"]
    lengths = set()
    for count in range(100, 260, 20):
        data["verdict"]["checks"] = checks + [dict(checks[0], detail="d" * 250)] * count
        text = markdown(parse(data))
        assert len(text) <= BODY < LIMIT - 500  # room for a line that a workflow puts before it
        lengths.add("more rows stand in report.html" in text)
        sound(text)
    assert lengths == {False, True}


def test_texts_of_any_length_fit(make):
    data = make("FAIL")
    long = "&<|" * 40_000
    data["recipe"].update(name=long, description=long)
    data["gate"]["policy"]["why"] = long
    data["class_names"] = [long]
    for check in data["verdict"]["checks"]:
        check["detail"] = long
    report = parse(data)
    for text in (markdown(report), summary(report)):
        assert len(text) <= LIMIT
        assert "FAIL" in text.splitlines()[0]
        sound(text)
    assert "_Left out for length (Recipe): see report.html._" in markdown(report)


def test_what_fits_is_counted_by_hand():
    rows = tuple("r" * 9 for _ in range(100))  # 10 characters with the line's end
    blocks = [
        Block("head"),
        Block("table", rows, "\n\nend", "t"),
        Block("x" * 600, name="long"),
        Block("last"),
    ]
    assert whole(blocks).count("rrrrrrrrr") == 100
    text = fitted(blocks, "F", limit=1000)
    # 1000 - 400 - 6 = 594 are left for the table, half of it: 297. Without rows it takes
    # len("table\n\n_100 more rows stand in F._\n\nend") = 39, and 10 are kept: 248 hold 24 rows.
    assert text.count("rrrrrrrrr") == 24
    assert "\n\n_76 more rows stand in F._\n\nend\n\nlast\n\n_Left out for length (long): see F._\n" in text
    assert len(text) <= 1000
    assert shortened("abcdef", 6) == "abcdef" and shortened("abcdefg", 6) == "abcde…"


def test_the_summary_of_a_small_report(make):
    text = summary(parse(make("FAIL")))
    lines = text.splitlines()
    assert lines[0] == "## edgekd: fashion-mnist: ❌ FAIL"
    assert lines[2] == "Accuracy drop on x86-onnx fails: 1.62 pp observed, limit 1.00 pp."
    rows = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")]
    assert rows[0] == ["Target", "Accuracy, %", "Drop, pp (90% interval)", "Size, kB", "p90, ms", "Verdict"]
    # 94.63 - 1.62; 1.645 * sqrt(0.03 / 10000) = 0.285 pp; 200,704 bytes; 0.4125 ms * 1.07.
    expected = ["x86-onnx (required)", "93.01", r"+1.62 \[+1.34, +1.90\]", "200.7", "0.441", "❌ FAIL"]
    assert expected in rows
    assert [
        "android-cpu",
        "94.32",
        r"+0.31 \[+0.03, +0.59\]",
        "204.8",
        "0.486 (host)",
        "❔ INCONCLUSIVE",
    ] in rows
    failed, undecided = (text.index(f"### Not passed{more}\n") for more in ("", ", not required"))
    assert failed < text.index("- **FAIL** Accuracy drop on x86-onnx: 95% upper bound 1.90 pp") < undecided
    assert "- **INCONCLUSIVE** Latency, p90 on android-cpu and raspberry-pi-4: measured on this" in text
    assert (text.count("- **FAIL**"), text.count("- **INCONCLUSIVE**")) == (1, 1)
    assert "> Margin: 1.0 pp · Test samples: 10,000" in text
    assert "](" not in text and "http" not in text


def test_nothing_is_linked_or_mentioned(make):
    data = make("FAIL")
    evil = "@team see https://evil.example and www.evil.example [x](http://y) <b> ndcg@10"
    data["recipe"]["name"] = evil
    data["verdict"]["checks"][4]["detail"] = evil
    for text in (summary(parse(data)), markdown(parse(data)).split("<details>")[0]):
        assert "evil" in text
        assert not re.search(r"(?<!\w)@\w|https?://|www\.|(?<!\\)\]\(|<b>", text)
        assert "ndcg@10" in text
    assert escape("a@b.c 3 @ 4") == "a@b.c 3 @ 4"
