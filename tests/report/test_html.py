import base64
import hashlib
import re

import pytest
from pages import box, boxes, open_details, overflows

from edgekd.report.html import html
from edgekd.report.schema import parse


@pytest.mark.parametrize("width", [1200, 400])
def test_bars_are_as_long_as_the_drops(show, many, width):
    page = show(many, width)
    drops = {s.id: s.metrics[0].drop for s in many.stages if s.metrics[0].drop is not None}
    origins = {s.id: drops.get(s.parent_id, 0.0) for s in many.stages}
    for a in many.artifacts:
        if a.role == "target":
            drops[a.id], origins[a.id] = a.metrics[0].drop, drops[a.stage_id]
    assert len(drops) == 13
    # One scale for all rows, from the two drops of the axis that a reader sees.
    zero, one = (box(page, f".tick:text-is('{t}')") for t in ("0.0", "+1.0"))
    pixels_a_pp = (one["x"] + one["w"] / 2) - (zero["x"] + zero["w"] / 2)
    start = zero["x"] + zero["w"] / 2
    for row, drop in drops.items():
        total, step = (box(page, f"tr[data-row='{row}'] rect.{k}") for k in ("total", "step"))
        assert total["w"] == pytest.approx(drop * pixels_a_pp, abs=0.6), row
        assert total["x"] == pytest.approx(start, abs=0.6), row
        assert step["w"] == pytest.approx(abs(drop - origins[row]) * pixels_a_pp, abs=0.6), row
        assert step["x"] == pytest.approx(start + min(drop, origins[row]) * pixels_a_pp, abs=0.6), row


def test_whiskers_and_margin_stand_where_the_interval_and_the_margin_are(show, sample):
    page = show(sample)
    zero, one = (box(page, f".tick:text-is('{t}')") for t in ("0.0", "+1.0"))
    start, scale = zero["x"] + zero["w"] / 2, one["x"] + one["w"] / 2 - zero["x"] - zero["w"] / 2
    low, high = next(a for a in sample["artifacts"] if a["id"] == "x86-onnx")["metrics"][0]["drop_interval"]
    whisker = box(page, "tr[data-row='x86-onnx'] .whisker")
    assert whisker["x"] == pytest.approx(start + low * scale, abs=1.5)
    assert whisker["w"] == pytest.approx((high - low) * scale, abs=2.5)
    margins = boxes(page, ".fall tbody .margin")
    assert len(margins) == 8
    assert all(m["x"] + m["w"] / 2 == pytest.approx(start + scale, abs=1.5) for m in margins)
    kinds = page.eval_on_selector_all(".fall .step", "found => found.map(e => e.classList[1])")
    assert kinds == ["loss", "loss", "gain", "loss", "loss", "loss", "loss"]


def test_tables_hold_the_reports_numbers(show, sample):
    page = show(sample)
    fall = page.locator("tr[data-row='x86-onnx'] td.n").all_inner_texts()
    assert fall == ["94.27", "+0.36", "[+0.08, +0.64]", "+0.14"]
    files = page.locator(".files tbody.targets tr").all_inner_texts()
    assert len(files) == 4
    cells = re.split(r"\s*\n\s*|\t", files[0])
    host = ["host", "PASS required", "tflite", "static_wi8_ai8", "196.6", "227.5× smaller", "94.32", "+0.31"]
    assert [c for c in cells if c][:8] == host
    for text in ("0.371", "0.397", "measured", "24.13", "[23.60, 24.70]", "2.41", "30 of 30", "0.23"):
        assert text in cells, text
    assert page.locator(".files tbody.references tr").count() == 1 + 4
    badges = page.locator(".checks .badge").all_inner_texts()
    assert badges.count("PASS") == 14 and badges.count("INCONCLUSIVE") == 2
    assert page.locator("#details details").count() >= 10
    open_details(page)
    details = page.locator("#details").inner_text()
    assert sample["data"]["splits"]["test"]["sha256"] in details
    assert sample["artifacts"][0]["files"][0]["sha256"] in details
    assert 'calibration = "stratified-512"' in details
    assert sample["data"]["calibration"]["ids_sha256"] in details


def test_size_and_latency_bars_are_in_proportion(show, sample):
    page = show(sample)
    sizes = boxes(page, "#sizes .bar")
    expected = sorted((a["size_bytes"] for a in sample["artifacts"]), reverse=True)
    track = box(page, "#sizes li:first-child svg")["w"]
    assert [b["w"] for b in sizes] == pytest.approx([track * s / expected[0] for s in expected], abs=0.6)
    slowest = max(m["p90_ms"] for m in sample["measurements"])
    host = [m["median_ms"] for m in sample["measurements"] if m["target"] == "host"]
    group = boxes(page, "#latencies .bars:first-of-type .bar")[:3]
    assert [b["w"] for b in group] == pytest.approx([track * m / slowest for m in host], abs=0.6)
    assert (
        page.locator("#latencies h3").all_inner_texts()[2] == "android-cpu, on another computer, standing in"
    )


@pytest.mark.parametrize(
    ("verdict", "colour", "words"),
    [
        ("PASS", "rgb(26, 122, 69)", "every file loses less than 1.0 pp of accuracy"),
        ("FAIL", "rgb(179, 38, 30)", "Accuracy drop on x86-onnx fails: 1.62 pp observed, limit 1.00 pp."),
        ("INCONCLUSIVE", "rgb(143, 90, 0)", "Accuracy drop on host cannot be decided"),
    ],
)
def test_verdict_is_said_in_words_and_colour(show, make, verdict, colour, words):
    page = show(make(verdict), color_scheme="light")
    word = page.locator(".verdict .word")
    assert word.inner_text().strip().endswith(verdict)
    assert word.evaluate("e => getComputedStyle(e).color") == colour
    assert words in page.locator(".verdict .headline").inner_text()
    facts = page.locator(".facts").inner_text()
    assert "1.0 pp" in facts and ("360" if verdict == "INCONCLUSIVE" else "10,000") in facts
    assert "test samples can support" in page.locator(".verdict").inner_text()


@pytest.mark.parametrize("width", [1200, 700, 400])
def test_nothing_overflows_or_overlaps_with_many_targets(show, many, width):
    page = show(many, width)
    assert overflows(page) <= 0
    open_details(page)
    assert overflows(page) <= 0
    for selector in (".fall tbody th, .fall tbody td.n", ".bars li", ".checks tbody tr", ".tick"):
        found = [b for b in boxes(page, selector) if b["w"] and b["h"]]
        assert len(found) > 4
        for i, a in enumerate(found):
            for b in found[i + 1 :]:
                across = min(a["x"] + a["w"], b["x"] + b["w"]) - max(a["x"], b["x"])
                down = min(a["y"] + a["h"], b["y"] + b["h"]) - max(a["y"], b["y"])
                assert across <= 0.5 or down <= 0.5, (selector, a, b)
    clipped = page.evaluate(
        """[...document.querySelectorAll('.fall td.n, .bars .n, .facts dd, .verdict p')]
           .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"""
    )
    assert clipped == []
    inner = page.eval_on_selector_all(
        "#files .scroll, #checks .scroll", "found => found.map(e => e.scrollWidth - e.clientWidth)"
    )
    assert width == 700 or max(inner) <= 0


def test_dark_differs_from_light_and_text_stands_out(show, sample):
    def luminance(colour):
        parts = [int(v) / 255 for v in re.findall(r"\d+", colour)[:3]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    papers = []
    for scheme in ("light", "dark"):
        page = show(sample, color_scheme=scheme)
        paper, ink, soft = page.evaluate(
            """[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
                getComputedStyle(document.querySelector('.about')).color]"""
        )
        papers.append(luminance(paper))
        for text in (ink, soft):
            bright, dim = sorted((luminance(text), papers[-1]), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5  # WCAG 2 AA
        fill = page.eval_on_selector(".step.loss", "e => getComputedStyle(e).fill")
        assert fill != "rgb(0, 0, 0)"
    assert papers[0] > 0.9 and papers[1] < 0.02


def test_the_page_asks_the_network_for_nothing(show, sample):
    page = show(sample)
    open_details(page)
    page.wait_for_load_state("networkidle")
    assert len(page.asked) == 1 and page.asked[0].startswith("file://")
    assert page.errors == []
    text = html(parse(sample))
    assert not re.search(r"<link|<img|<iframe|@import|url\(|https?://", text)
    assert "default-src 'none'" in text
    # The one script is the one whose hash the page allows, and nothing in it makes code of text.
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in text and "unsafe-eval" not in text
    assert not re.search(r"\beval\b|Function\(|innerHTML|document\.write| on\w+=", script)


def test_hostile_text_is_shown_as_text(show, sample):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    attribute = '" onmouseover="alert(3)" x=\''
    sample["class_names"][0] = evil
    sample["recipe"]["name"] = evil
    sample["host"]["cpu"] = evil
    sample["verdict"]["checks"][0]["detail"] = evil
    sample["artifacts"][-1]["target"] = attribute
    sample["artifacts"][-1]["id"] = attribute
    for m in sample["measurements"]:
        m["target"] = attribute if m["target"] == "raspberry-pi-4" else m["target"]
        m["artifact_id"] = attribute if m["artifact_id"] == "raspberry-pi-4" else m["artifact_id"]
    page = show(sample, 400)
    open_details(page)
    assert page.locator("img, [onmouseover], [onerror]").count() == 0
    assert page.locator("script").count() == 1 and "alert" not in page.locator("script").inner_text()
    assert page.dialogs == [] and page.errors == []
    assert page.locator("h1").inner_text() == evil
    assert page.title().startswith(evil)
    assert attribute.strip() in page.locator("#files").inner_text()
    assert overflows(page) <= 0


def test_very_long_names_do_not_break_the_page(show, sample):
    long = "target-" + "x" * 300
    sample["artifacts"][4]["target"] = long
    sample["recipe"]["name"] = "y" * 200
    sample["verdict"]["checks"][0]["detail"] = "z" * 400
    for width in (1200, 400):
        page = show(sample, width)
        open_details(page)
        assert overflows(page) <= 0, width


def test_printing_shows_the_details(show, sample):
    page = show(sample)
    shown = "found => found.filter(e => e.checkVisibility({contentVisibilityAuto: true})).length"
    assert page.eval_on_selector_all("#details .scroll", shown) == 0
    closed = box(page, "#details")["h"]
    page.set_viewport_size({"width": 1032, "height": 900})  # A4 landscape within 12 mm margins
    page.emulate_media(media="print")
    assert overflows(page) <= 0
    assert page.eval_on_selector_all("#details .scroll", shown) == 10
    assert box(page, "#details")["h"] > closed + 500
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_a_bare_report_still_makes_a_page(show, sample):
    bare = [a for a in sample["artifacts"] if a["role"] == "target"]
    for artifact in bare:
        artifact.update(parity=None, inventory=None, speedup_over_teacher=None, speedup_over_float=None)
        artifact.update(agreement=None, negative_flip_rate=None, size_ratio_to_teacher=None, metrics=[])
    sample.update(artifacts=bare, measurements=[], class_names=[])
    sample["teacher"].update(artifact_ids=[], params=None, macs=None)
    sample["data"].update(calibration=None, notes={})
    page = show(sample)
    assert page.locator(".fall tbody tr").count() == 8
    assert page.locator("tr[data-row='host'] td.n").all_inner_texts() == ["–"] * 4
    assert page.locator("tr[data-row='host'] rect").count() == 0
    assert "Nothing was timed in this run." in page.locator("#latencies").inner_text()
    assert "None" not in page.locator("main").inner_text()
