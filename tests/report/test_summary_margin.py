"""The margin that a headline names is the one that judged, wherever it came from."""

import folders
import pytest
from typer.testing import CliRunner

from edgekd import cli


@pytest.mark.parametrize("how", ["--max-drop", "--policy"])
@pytest.mark.parametrize("margin", [0.6, 2.0])
def test_the_headline_names_the_margin_that_was_judged_by(make, tmp_path, monkeypatch, how, margin):
    monkeypatch.setenv("EDGEKD_STORE", str(tmp_path / "store"))
    run, page, policy = tmp_path / "run", tmp_path / "summary.md", tmp_path / "policy.toml"
    folders.fill(make("PASS", targets=("host", "x86-onnx")), run)
    policy.write_text(f"[gate]\nmax_drop_pp = {margin}\n")
    asked = ["gate", str(run), how, str(margin if how == "--max-drop" else policy), "--summary", str(page)]
    found = CliRunner().invoke(cli.app, asked)
    assert found.exit_code == 0, found.output
    headline = page.read_text().splitlines()[2]
    assert f"every file loses less than {margin:.1f} pp of accuracy against the teacher" in headline
    assert "1.0 pp" not in page.read_text()  # the recipe's own
