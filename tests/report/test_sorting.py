from importlib import resources

import pytest
from pages import boxes, open_details, overflows

SCRIPT = resources.files("edgekd.report").joinpath("templates/sort.js").read_text(encoding="utf-8")
FILES = "#files tbody.targets"


def column(page, body, place):
    return page.eval_on_selector_all(
        f"{body} tr:not(.divider)",
        "(rows, i) => rows.map(r => (r.cells[i].querySelector('span') || r.cells[i]).textContent)",
        place,
    )


def sort_button(page, table, name):
    return page.locator(f"{table} thead").get_by_role("button", name=name)


def test_a_click_sorts_and_a_third_one_restores(show, sample):
    page = show(sample)
    button = page.get_by_role("button", name="Drop, pp 90% interval", exact=True)  # as it is read out
    head = button.locator("xpath=..")
    assert head.get_attribute("aria-sort") == "none"
    written = column(page, FILES, 0)
    assert written == ["host", "x86-onnx", "android-cpu", "raspberry-pi-4"]
    assert column(page, FILES, 4) == ["+0.31", "+0.36", "+0.31", "+0.33"]
    button.click()
    assert head.get_attribute("aria-sort") == "ascending"
    # Equal ones keep their order.
    assert column(page, FILES, 0) == ["host", "android-cpu", "raspberry-pi-4", "x86-onnx"]
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, FILES, 0) == ["x86-onnx", "raspberry-pi-4", "host", "android-cpu"]
    button.click()
    assert head.get_attribute("aria-sort") == "none"
    assert column(page, FILES, 0) == written
    assert page.errors == []


def test_sorting_by_another_column_takes_the_mark_from_the_first(show, sample):
    page = show(sample)
    sort_button(page, "#files", "Drop, pp").click()
    sort_button(page, "#files", "Size, kB").click()
    marks = page.eval_on_selector_all(
        "#files th[aria-sort]", "found => found.map(e => e.getAttribute('aria-sort'))"
    )
    assert marks.count("ascending") == 1 and marks.count("none") == len(marks) - 1
    # 196,608 bytes and 4,096 more for each further target.
    assert column(page, FILES, 2) == ["196.6", "200.7", "204.8", "208.9"]


def test_groups_stay_groups_and_dividers_stay_on_top(show, sample):
    page = show(sample)
    sort_button(page, "#files", "Size, kB").click()
    sort_button(page, "#files", "Size, kB").click()
    assert column(page, FILES, 0) == ["raspberry-pi-4", "android-cpu", "x86-onnx", "host"]
    references = page.locator("#files tbody.references tr")
    assert "divider" in references.first.get_attribute("class")
    assert column(page, "#files tbody.references", 2) == ["44,731.4", "44,731.4", "1,098.2", "1,098.2"]
    sort_button(page, "#checks", "Observed").click()
    for body in page.locator("#checks tbody").all():
        rows = body.locator("tr")
        assert "divider" in rows.first.get_attribute("class")
        assert body.locator("tr.divider").count() == 1
    required = page.locator("#checks tbody").first
    assert {t for t in required.locator("tr:not(.divider) th").all_inner_texts()} == {"host", "x86-onnx"}


SHOWN = [
    "1,234",
    "−0.12",
    "2.1×",
    "–",
    "+0.5",
    "[−3.00, +1.10]",
    "11.2 M",
    "3.1e−06",
    "",
    "900 k",
    "n/a",
    "0",
]
ASCENDING = [
    *("[−3.00, +1.10]", "−0.12", "0", "3.1e−06", "+0.5", "2.1×", "1,234", "900 k", "11.2 M"),
    *("–", "", "n/a"),  # what is no number comes last, as it stood
]


def test_numbers_are_read_as_they_are_shown(browser):
    page = browser.new_page()
    cells = "".join(f"<tr><td>{text}</td></tr>" for text in SHOWN)
    page.set_content(
        f"<table class='sortable'><thead><tr><th class='n'>X</th></tr></thead><tbody>{cells}</tbody></table>"
    )
    page.add_script_tag(content=SCRIPT)
    button = page.get_by_role("button", name="X")

    def order():
        return page.eval_on_selector_all("td", "found => found.map(e => e.textContent)")

    button.click()
    assert order() == ASCENDING
    button.click()
    assert order() == [*reversed(ASCENDING[:-3]), "–", "", "n/a"]
    button.click()
    assert order() == SHOWN
    page.close()


def test_the_keyboard_sorts(show, sample):
    page = show(sample)
    button = sort_button(page, "#files", "Median, ms")
    button.focus()
    outline = button.evaluate("e => getComputedStyle(e).outlineStyle")
    page.keyboard.press("Enter")
    assert button.locator("xpath=..").get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Space")
    # 0.3712 ms and 0.0413 more for each further target.
    assert column(page, FILES, 5) == ["0.495", "0.454", "0.412", "0.371"]
    assert button.evaluate("e => e === document.activeElement") and outline != "none"
    reached = []
    page.evaluate("document.activeElement.blur()")
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent.trim()"))
    assert {"Steps", "Size, kB", "Parity"} <= set(reached)


def test_without_scripts_the_tables_stand_as_written(show, sample):
    page = show(sample, java_script_enabled=False)
    assert page.locator("th button").count() == 0 and page.locator("[aria-sort]").count() == 0
    names = page.locator("#files tbody.targets .name").all_inner_texts()
    assert names == ["host", "x86-onnx", "android-cpu", "raspberry-pi-4"]


def test_what_is_told_in_order_does_not_sort(show, sample):
    page = show(sample)
    assert page.locator(".fall th button").count() == 0
    assert page.locator(".fall tbody tr").first.get_attribute("data-row") == "baseline"


@pytest.mark.parametrize("width", [1400, 360])
def test_buttons_fit_and_are_large_enough_to_touch(show, full, width):
    page = show(full, width)
    open_details(page)
    assert overflows(page) <= 0
    found = [b for b in boxes(page, "#files th button, #checks th button") if b["w"]]
    assert len(found) == 9 + 2
    if width == 360:
        assert min(b["h"] for b in found) >= 24  # WCAG 2.2, target size
        assert all(b["x"] >= 0 and b["x"] + b["w"] <= width for b in found)
    inner = page.eval_on_selector_all(
        "#files .scroll, #checks .scroll", "found => found.map(e => e.scrollWidth - e.clientWidth)"
    )
    assert max(inner) <= 0
    if width == 360:
        sort_button(page, "#files", "p90, ms").click()
        assert column(page, FILES, 0)[0] == "host"


def test_every_numeric_column_of_the_details_sorts(show, sample):
    page = show(sample)
    open_details(page)
    table = "#details details:has(summary:text-is('Timing and memory'))"
    heads = page.locator(f"{table} th").all_inner_texts()
    texts = {"File", "Target", "Runtime", "Kind", "Conditions"}
    assert page.locator(f"{table} th button").count() == len(heads) - len(texts)
    sort_button(page, table, "Median, ms").first.click()
    medians = sorted(m["median_ms"] for m in sample["measurements"])
    shown = [float(t.replace(",", "")) for t in column(page, f"{table} tbody", 5)]
    assert shown == pytest.approx(medians, abs=0.0006)
