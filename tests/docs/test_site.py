"""The site builds without a warning, asks no other host for anything, and holds every page."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import overflows

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FOREIGN = re.compile(r"""(?:src|href)=["']?(?:https?:)?//[^\s"'>]+|url\(["']?(?:https?:)?//|@import""")


def build(root, site):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there_and_in_the_navigation(site):
    pages = [path.relative_to(DOCS) for path in DOCS.rglob("*.md")]
    assert len(pages) > 20 and Path("examples/fashion-mnist.md") in pages
    start = (site / "index.html").read_text()
    navigation = set(re.findall(r'<a href="([^"#]+)" class="md-nav__link', start)) | {"index.html"}
    for page in pages:
        name = page.with_name("index.html" if page.name == "README.md" else f"{page.stem}.html")
        assert (site / name).is_file() and name.as_posix() in navigation, page


def test_no_page_asks_another_host_for_anything(site):
    for page in site.rglob("*.html"):
        # What a reader may click on is no request of the page.
        text = re.sub(r"<a\s[^>]*>", "", page.read_text())
        text = re.sub(r"<code.*?</code>", "", text, flags=re.DOTALL)
        assert not FOREIGN.search(text), page
    for sheet in site.rglob("*.css"):
        assert not FOREIGN.search(sheet.read_text()), sheet


def test_pages_fit_a_phone_and_load_from_their_own_folder(site, browser):
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    for name in (
        "index",
        "projects",
        "speed",
        "guide/devices",
        "examples/fashion-mnist",
        "decisions/001-stages-and-plan",
    ):
        page.goto(f"file://{site}/{name}.html")
        assert overflows(page) <= 0, name
        assert page.locator("h1").count() == 1
    context.close()
    assert asked and all(url.startswith((f"file://{site}/", "data:")) for url in asked)


def test_a_link_to_nowhere_fails_the_build(tmp_path):
    for name in ("mkdocs.yml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(DOCS, tmp_path / "docs")
    (tmp_path / "docs/speed.md").write_text("# Figures\n\n[nowhere](nowhere.md)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1 and "'nowhere.md'" in done.stderr
