import math
import re

import pytest
from filled_reports import CLASS_DROPS, DISTRIBUTION, FLIPS, class_drop, filled, flip, slice_of
from pages import box, boxes, open_details, overflows

from edgekd.errors import UsageError
from edgekd.report.schema import parse

WIDTHS = [1400, 360]
EIGHT = (
    *("host", "x86-onnx", "android-cpu", "raspberry-pi-4"),
    *("arm64-onnx", "raspberry-pi-5", "android-gpu", "edge-npu"),
)


def number(text):
    return float(text.replace("−", "-").replace(",", "").replace("+", ""))


def scale_of(page, selector, middle, log=False):
    """Value -> pixel, from the outermost two labels of an axis as a reader sees them."""
    ticks = [(number(b["text"]), middle(b)) for b in boxes(page, selector)]
    (v1, p1), (v2, p2) = ticks[0], ticks[-1]
    through = math.log if log else float
    a = (p2 - p1) / (through(v2) - through(v1))
    for value, pixel in ticks:  # the labels themselves lie on one scale
        assert pixel == pytest.approx(p1 + a * (through(value) - through(v1)), abs=1.0)
    return lambda value: p1 + a * (through(value) - through(v1))


def across(b):
    return b["x"] + b["w"] / 2


def down(b):
    return b["y"] + b["h"] / 2


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("plot", ["#by-latency-0", "#by-size"])
def test_points_and_whiskers_stand_where_the_axes_say(show, full, plot, width):
    page = show(full, width)
    x = scale_of(page, f"{plot} .tick-x", across, log=True)
    y = scale_of(page, f"{plot} .tick-y", down)
    medians = {}
    for m in full["measurements"]:
        medians.setdefault(m["artifact_id"], m["median_ms"])
    labels = {}
    for n, artifact in enumerate(full["artifacts"], start=1):
        label = page.eval_on_selector_all(
            f"{plot} svg.point",
            """(found, n) => found.filter(e => e.dataset.label.split(", ").some(part => {
                 const [a, b] = part.split("–").map(Number); return n >= a && n <= (b || a); }))
               .map(e => e.dataset.label)""",
            n,
        )
        assert len(label) == 1, n
        labels[n] = label[0]
        dot = box(page, f'{plot} svg.point[data-label="{label[0]}"] .dot')
        cost = artifact["size_bytes"] / 1000 if plot == "#by-size" else medians[artifact["id"]]
        assert across(dot) == pytest.approx(x(cost), abs=2.0), n
        assert down(dot) == pytest.approx(y(artifact["metrics"][0]["value"]), abs=2.0), n
    # The interval of a drop, turned over: the teacher has 94.63 %.
    (shipped,) = [n for n, a in enumerate(full["artifacts"], start=1) if a["id"] == "x86-onnx"]
    low, high = full["artifacts"][shipped - 1]["metrics"][0]["drop_interval"]
    lines = [b for b in boxes(page, f"{plot} line.whisker") if b["h"] > 1]
    dot = box(page, f'{plot} svg.point[data-label="{labels[shipped]}"] .dot')
    (whisker,) = [b for b in lines if across(b) == pytest.approx(across(dot), abs=0.7)][:1]
    assert whisker["y"] == pytest.approx(y(94.63 - low), abs=1.5)
    assert whisker["y"] + whisker["h"] == pytest.approx(y(94.63 - high), abs=1.5)
    margin = box(page, f"{plot} line.margin")
    assert margin["y"] == pytest.approx(y(94.63 - 1.0), abs=1.0)


@pytest.mark.parametrize("plot", ["#by-latency-0", "#by-size"])
def test_the_front_is_what_nothing_beats(show, full, plot):
    # Worked out pair by pair: beaten is who costs more for no more, or as much for less.
    medians = {}
    for m in full["measurements"]:
        medians.setdefault(m["artifact_id"], m["median_ms"])
    cost = {a["id"]: a["size_bytes"] if plot == "#by-size" else medians[a["id"]] for a in full["artifacts"]}
    value = {a["id"]: a["metrics"][0]["value"] for a in full["artifacts"]}
    unbeaten = {
        a
        for a in cost
        if not any(
            cost[b] <= cost[a] and value[b] >= value[a] and (cost[b], value[b]) != (cost[a], value[a])
            for b in cost
        )
    }
    page = show(full)
    column = 8  # No., File, Scheme, Accuracy, Drop, Interval, Median, Size, Unbeaten in
    rows = page.eval_on_selector_all(
        "#pareto .key tbody tr", "found => found.map(r => [...r.cells].map(c => c.textContent))"
    )
    assert len(rows) == len(full["artifacts"])
    said = {a["id"] for a, row in zip(full["artifacts"], rows, strict=True) if plot[4:8] in row[column]}
    # Of several that are the same in both, one stands for all.
    assert said <= unbeaten
    assert {(cost[a], value[a]) for a in said} == {(cost[a], value[a]) for a in unbeaten}
    best = page.eval_on_selector_all(f"{plot} svg.point.best title", "found => found.map(e => e.textContent)")
    names = {full["artifacts"][i]["target"] for i, row in enumerate(rows) if plot[4:8] in row[column]}
    assert all(any(name in text for text in best) for name in names if name)


@pytest.mark.parametrize("width", WIDTHS)
def test_histograms_are_as_high_as_the_counts(show, full, width):
    page = show(full, width)
    assert page.locator("#distributions > .spreads .spread").count() == 4
    first = "#distributions > .spreads .spread:first-child"
    bars = boxes(page, f"{first} .bin")
    assert len(bars) == 40
    tallest = max(b["h"] for b in bars)
    assert [b["h"] / tallest for b in bars] == pytest.approx(
        [n / 1000 for n in DISTRIBUTION["counts"]], abs=0.01
    )
    x = scale_of(page, f"{first} .tick", across)
    assert bars[6]["x"] == pytest.approx(x(0.36), abs=1.5)
    assert bars[-1]["x"] + bars[-1]["w"] == pytest.approx(x(0.70), abs=1.5)
    assert across(box(page, f"{first} .median")) == pytest.approx(x(0.36), abs=1.5)
    assert across(box(page, f"{first} .p90")) == pytest.approx(x(0.50), abs=1.5)
    said = page.locator(f"{first} .said").inner_text()
    assert said == "median 0.360 ms, p90 0.500, slowest 2.50; 2,400 runs, 520 beyond the right end"
    assert said in page.locator(f"{first} svg").get_attribute("aria-label")


def test_files_that_share_their_runs_share_a_histogram(show, full):
    for m in full["measurements"]:
        if m["artifact_id"] in ("host", "android-cpu"):
            m["raw_sha256"] = "a" * 64
    page = show(full)
    names = page.locator("#distributions > .spreads figcaption").all_inner_texts()
    assert len(names) == 3 and names[0].startswith("host and android-cpu")


@pytest.mark.parametrize("width", WIDTHS)
def test_drops_by_class_stand_where_the_axis_says_the_worst_first(show, full, width):
    page = show(full, width)
    change = "#classes details.change[open]"
    assert page.locator("#classes details.change").count() == 1  # all four targets answer alike
    labels = [b["text"].split()[0] for b in boxes(page, f"{change} .lanes .what")]
    assert labels == ["Coat", "Dress", "Pullover", "Trouser", "T-shirt"]
    x = scale_of(page, f"{change} .lanes .tick", across)
    drops = [2.0, 1.0, 0.0, -0.5, -0.5]  # (lost - won) of 2,000, by hand
    for row, (drop, d) in enumerate(zip(drops, CLASS_DROPS["worst"], strict=True), start=2):
        lane = f"{change} .lanes li:nth-child({row})"
        assert across(box(page, f"{lane} circle")) == pytest.approx(x(drop), abs=1.0)
        assert number(page.locator(f"{lane} .n").inner_text()) == drop
        whisker = max(boxes(page, f"{lane} line.whisker"), key=lambda b: b["w"])
        low, high = d["drop_interval"]
        assert whisker["x"] == pytest.approx(x(low), abs=1.5)
        assert whisker["x"] + whisker["w"] == pytest.approx(x(high), abs=1.5)
        zero = max(boxes(page, f"{lane} line.zero"), key=lambda b: b["h"])
        assert across(zero) == pytest.approx(x(0.0), abs=1.0)
    summary = page.locator(f"{change} > summary").inner_text()
    assert (
        "host, x86-onnx, android-cpu and raspberry-pi-4" in summary and "Coat lost most, +2.00 pp" in summary
    )
    open_details(page)
    table = page.locator(f"{change} table").nth(0).locator("tbody tr").all_inner_texts()
    # 1,800 of 2,000 right, 60 lost, 20 won: 1,760 right.
    assert table[0].split("\t") == ["Coat", "2,000", "90.00", "88.00", "60", "20", "+2.00", "[+1.25, +2.75]"]


def test_of_samples_in_clusters_no_class_has_an_interval(show, full):
    full["gate"]["policy"]["cluster"] = "user"
    for artifact in full["artifacts"]:
        for each in (artifact["class_drops"] or {"worst": []})["worst"]:
            each["drop_interval"] = None
    page = show(full)
    assert "Samples come in clusters (user)" in page.locator("#classes > .about").inner_text()
    lane = "#classes details.change[open] .lanes li:nth-child(2)"
    assert max(b["w"] for b in boxes(page, f"{lane} line.whisker")) < 2
    assert page.locator(f"{lane} svg").get_attribute("aria-label") == "Coat: drop +2.00 pp"
    summary = page.locator("#classes details.change[open] > summary").inner_text()
    assert "Coat lost most, +2.00 pp" in summary and "distinguishable" not in summary


@pytest.mark.parametrize("width", WIDTHS)
def test_flips_stand_in_the_row_of_the_teacher_and_the_column_of_the_file(show, full, width):
    page = show(full, width)
    rows = {b["text"].split()[0]: down(b) for b in boxes(page, "#classes .matrix .tick-y")}
    columns = {b["text"]: across(b) for b in boxes(page, "#classes .matrix .tick-x")}
    assert list(rows) == list(columns) == ["0", "2", "3", "4"]  # the classes of the three pairs
    cells = boxes(page, "#classes .matrix .cell text")
    assert [int(c["text"]) for c in cells] == [100, 64, 36]
    for cell, pair in zip(cells, FLIPS["pairs"], strict=True):
        assert down(cell) == pytest.approx(rows[str(pair["teacher_class"])], abs=2)
        assert across(cell) == pytest.approx(columns[str(pair["file_class"])], abs=1)
    strength = page.eval_on_selector_all(
        "#classes .matrix .cell rect", "found => found.map(e => +e.getAttribute('fill-opacity'))"
    )
    assert strength == sorted(strength, reverse=True) and strength[0] > strength[-1]
    text = page.locator("#classes").inner_text()
    # 210 of 10,000; 120 lost and 80 won leave 10 that were wrong before and after.
    assert "210 samples of 10,000 got another answer than the teacher’s: 120 lost, 80 won, 10 wrong" in text
    assert "10 more between other classes." in text
    open_details(page)
    table = page.locator("#classes table").nth(1).locator("tbody tr").all_inner_texts()
    assert table[0].split("\t") == ["Coat", "Pullover", "100", "60", "30", "10"]
    assert table[-1].split("\t") == ["4 further pairs", "–", "10", "–", "–", "–"]


@pytest.mark.parametrize("width", WIDTHS)
def test_bars_within_files_are_as_long_as_bytes_and_counts(show, full, width):
    page = show(full, width)
    first = "#inside > details:first-of-type"
    sizes = boxes(page, f"{first} ul[aria-label='Size by layer'] .bar")
    # 196,608 bytes: 100,000 + 50,000 + 1,200 + 800 of constants leave 44,608.
    expected = [100_000, 50_000, 1_200, 800, 44_608]
    assert [b["w"] / sizes[0]["w"] for b in sizes] == pytest.approx([e / 1e5 for e in expected], abs=0.005)
    texts = page.locator(f"{first} ul[aria-label='Size by layer'] .n").all_inner_texts()
    assert texts == ["100.0", "50.0", "1.2", "0.8", "44.6"]
    parts = boxes(page, f"{first} .parts .part")
    whole = box(page, f"{first} .parts")["w"]
    shares = [150_000 / 196_608, 2_000 / 196_608, 44_608 / 196_608]
    assert [p["w"] / whole for p in parts] == pytest.approx(shares, abs=0.01)
    label = page.locator(f"{first} .parts").get_attribute("aria-label")
    assert "int8 150.0 kB, 76.3%, int32 2.0 kB, 1.0%, all else 44.6 kB, 22.7%" in label
    operators = boxes(page, f"{first} ul[aria-label='Operators by type'] li")
    assert [re.sub(r"\s+", " ", o["text"]) for o in operators] == [
        "CONV_2D int8 19",
        "ADD int8 9",
        "FULLY_CONNECTED int8 1",
        "MEAN int8 1",
    ]
    bars = boxes(page, f"{first} ul[aria-label='Operators by type'] .bar")
    assert [b["w"] / bars[0]["w"] for b in bars] == pytest.approx([1, 9 / 19, 1 / 19, 1 / 19], abs=0.005)


def test_slices_are_shown_the_worst_first(show, full):
    page = show(full)
    rows = page.locator("#slices tbody tr").all_inner_texts()
    cells = [[re.sub(r"\s+", " ", c) for c in row.split("\t")] for row in rows]
    everywhere = "host, x86-onnx, android-cpu and raspberry-pi-4"
    assert cells == [
        ["label = Coat", everywhere, "FAIL", "2,000", "+3.25", "[+2.75, +3.75]", "2.00", ""],
        ["label = Bag", everywhere, "INCONCLUSIVE", "4", "–", "–", "2.00", "no samples"],
        ["label = Trouser", everywhere, "PASS", "2,000", "−0.50", "[−1.00, 0.00]", "2.00", ""],
    ]
    assert "3 slices must pass, each with its own margin: 1 PASS, 1 FAIL and 1 INCONCLUSIVE." in (
        page.locator("#slices").inner_text()
    )


def test_slices_that_need_not_pass_are_counted_and_their_alarms_shown(show, full):
    for artifact in full["artifacts"]:
        artifact["slices"] = [
            {**one, "mandatory": False, "status": "NOT_APPLICABLE", "alarm": one["value"] == "Coat"}
            for one in artifact["slices"]
        ]
    page = show(full)
    text = page.locator("#slices").inner_text()
    assert "2 slices that need not pass raised no alarm, 1 of them for want of samples; 1 raised one." in text
    assert page.locator("#slices tbody tr").count() == 1
    assert page.locator("#slices .badge").inner_text() == "ALARM"


def test_the_gallery_shows_samples_with_all_answers(show, full):
    page = show(full)
    assert page.locator("#gallery li").count() == 2
    image = page.locator("#gallery img")
    assert image.count() == 1 and image.get_attribute("alt") == "Sample test/00017, Coat"
    assert image.evaluate("e => [e.complete, e.naturalWidth, e.naturalHeight]") == [True, 8, 8]
    first, second = ("".join(li.split()) for li in page.locator("#gallery li").all_inner_texts())
    assert "Sampletest/00017" in first and "LabelCoat" in first
    assert "TeacherCoat✓" in first and "EveryfilePullover✕" in first
    assert second.startswith("0.5,−1.25and28more")
    assert "TeacherDress✕" in second and "hostT-shirt✓" in second
    assert "2 of 210 samples" in page.locator("#gallery").inner_text()


@pytest.mark.parametrize("width", WIDTHS)
def test_every_plot_is_there_says_itself_in_words_and_fits(show, full, width):
    page = show(full, width)
    open_details(page)
    page.wait_for_load_state("networkidle")
    assert page.errors == []
    assert [url for url in page.asked if not url.startswith("data:image/png")] == [page.url]
    assert overflows(page) <= 0
    plots = {"#pareto": 2, "#distributions": 12, "#classes": 6, "#inside": 8}
    for section, count in plots.items():
        found = page.eval_on_selector_all(
            f"{section} svg[role='img']", "found => found.map(e => e.getAttribute('aria-label'))"
        )
        assert len(found) == count and all(len(text) > 15 for text in found), section
    for b in boxes(page, "main svg:not(svg svg)"):
        assert b["w"] > 0 and b["h"] > 0
    for selector in (".lanes li", "#by-size .tick-x", "#by-size .tick-y", ".matrix text", ".spread"):
        found = [b for b in boxes(page, selector) if b["w"] and b["h"]]
        for i, a in enumerate(found):
            for b in found[i + 1 :]:
                wide = min(a["x"] + a["w"], b["x"] + b["w"]) - max(a["x"], b["x"])
                high = min(a["y"] + a["h"], b["y"] + b["h"]) - max(a["y"], b["y"])
                assert wide <= 0.5 or high <= 0.5, (selector, a, b)
    for b in boxes(page, "#pareto text, #classes text, .spread .tick"):
        assert b["x"] >= 0 and b["x"] + b["w"] <= width, b


def test_a_report_without_figures_has_none_of_their_sections(show, sample):
    page = show(sample)
    for section in ("#slices", "#distributions", "#classes", "#gallery", "#sensitivity"):
        assert page.locator(section).count() == 0
        assert page.locator(f"nav a[href='{section}']").count() == 0
    for href in page.eval_on_selector_all("nav a", "found => found.map(e => e.getAttribute('href'))"):
        assert page.locator(href).count() == 1


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("targets", "classes", "named"), [(1, 2, True), (8, 1000, False)])
def test_few_and_many_targets_and_classes_stay_readable(show, make, width, targets, classes, named):
    report = filled(make("PASS", **({"targets": ("host",)} if targets == 1 else {"targets": EIGHT})))
    report["class_names"] = [f"a class of many {k}" for k in range(classes)] if named else []
    shown = min(classes, 100)
    for i, artifact in enumerate(report["artifacts"]):
        if artifact["role"] == "target":
            worst = [class_drop(k, 50, 45, 5, i % 3, [-1.0, 20.0]) for k in range(shown)]
            artifact["class_drops"] = {
                "worst": worst,
                "left_out": classes - shown,
                "without_samples": 0,
            }
            pairs = [flip(k % classes, (k + 1) % classes, 9, 5, 2) for k in range(min(30, classes))]
            artifact["flips"] = {**FLIPS, "n": 9 * len(pairs) + 10, "pairs": pairs}
            artifact["slices"] = [slice_of(str(k), 50, 0.0, True, "PASS") for k in range(classes)]
    page = show(report, width)
    open_details(page)
    assert overflows(page) <= 0 and page.errors == []
    assert page.locator("#classes .lanes").first.locator("li").count() <= 1 + 12
    assert page.locator("#slices tbody tr").count() <= 30
    assert len(page.content()) < 3_000_000
    if not named:
        assert "988 further classes lost no more." in page.locator("#classes").inner_text()
        assert "class 0" in page.locator("#classes .lanes").first.inner_text()
        assert page.locator("#classes .matrix").first.locator(".tick-y").count() == 10


def test_hostile_names_in_plots_are_shown_as_text(show, full):
    evil = "<img src=x onerror=alert(2)>\" onmouseover='alert(3)'"
    full["class_names"] = [evil] * 5
    full["gallery"]["samples"][0]["sample_id"] = evil
    for artifact in full["artifacts"]:
        for layer in artifact["contents"]["layers"]:
            layer["layer"] = evil
        artifact["inventory"]["ops"] = {f"{evil}/{evil}": 3}
        for one in artifact["slices"]:
            one["value"] = one["reason"] = evil
    page = show(full, 360)
    open_details(page)
    assert page.locator("[onmouseover], [onerror]").count() == 0
    assert page.locator("img").count() == 1 and page.locator("script").count() == 1
    assert page.dialogs == [] and page.errors == []
    assert evil in page.locator("#slices").inner_text()
    assert evil in page.locator("#inside").inner_text()
    assert evil in page.locator("#gallery").inner_text()
    assert overflows(page) <= 0


def test_a_gallery_takes_nothing_but_an_image(full):
    full["gallery"]["samples"][0]["png_base64"] = 'x"><script>alert(1)</script>'
    with pytest.raises(UsageError, match="png_base64"):
        parse(full)


def test_empty_figures_still_make_a_page(show, full):
    for artifact in full["artifacts"]:
        artifact["inventory"] = {"ops": {}, "int8_ops": 0, "float_ops": 0}
        artifact["contents"] = {
            "layers": [],
            "other_layers": 0,
            "other_layers_bytes": 0,
            "by_dtype": {},
            "graph_bytes": 0,
        }
        if artifact["role"] == "target":
            artifact["class_drops"] = {"worst": [], "left_out": 0, "without_samples": 5}
            artifact["flips"] = {"n": 0, "lost": 0, "won": 0, "pairs": [], "other_pairs": 0, "other_n": 0}
    for measurement in full["measurements"]:
        measurement["distribution"] = {
            "quantiles_ms": [0.0] * 11,
            "low_ms": 0.0,
            "high_ms": 0.001,
            "counts": [0] * 40,
            "below": 0,
            "above": 0,
        }
        measurement["median_ms"] = 0.0
    full["gallery"] = {"samples": [], "flipped": 0}
    page = show(full, 360)
    open_details(page)
    assert page.errors == [] and overflows(page) <= 0
    assert page.locator("#by-size").count() == 1 and page.locator("#by-latency-0").count() == 0
    text = page.locator("main").inner_text()
    assert "Every sample has the teacher’s answer." in text
    assert "Every file gave the teacher’s answer on every sample." in text
    assert "None" not in text and "nan" not in text.lower().replace("finance", "")


def test_each_device_has_a_plot_of_its_own(show, full):
    for measurement in full["measurements"]:
        measurement["device"] = "a desk" if measurement["target"] in ("host", "x86-onnx") else "a board"
    page = show(full)
    titles = page.locator("#pareto .x-title").all_inner_texts()
    assert [re.sub(", log scale", "", t) for t in titles] == [
        "Median latency, ms, on a desk",
        "Median latency, ms, on a board",
        "Size of the file, kB",
    ]
    heads = page.locator("#pareto .key th").all_inner_texts()
    assert heads[6:8] == ["Median on a desk, ms", "Median on a board, ms"]
    names = page.locator("#by-latency-1 svg.point title").all_text_contents()
    assert any("raspberry-pi-4" in n for n in names) and not any("x86-onnx" in n for n in names)


@pytest.mark.parametrize("width", [1400, 800, 500, 360])
def test_labels_of_crowded_points_cover_neither_each_other_nor_points(show, make, width):
    page = show(filled(make("PASS", EIGHT, 2)), width)
    for plot in ("#by-latency-0", "#by-size"):
        labels, dots = boxes(page, f"{plot} .label text"), boxes(page, f"{plot} .dot")
        assert len(labels) == len(dots) >= 8
        area = box(page, f"{plot} .area")
        for i, a in enumerate(labels):
            assert a["x"] >= area["x"] - 2 and a["x"] + a["w"] <= area["x"] + area["w"] + 2, a
            for b in [*labels[i + 1 :], *dots]:
                wide = min(a["x"] + a["w"], b["x"] + b["w"]) - max(a["x"], b["x"])
                high = min(a["y"] + a["h"], b["y"] + b["h"]) - max(a["y"], b["y"])
                assert wide <= 1 or high <= 4, (plot, a, b)  # a line's height has air above the digits
