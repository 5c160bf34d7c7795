"""axe-core, the engine that browsers' own audits use, on whole pages with all details open."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from pages import open_details


def minimal(data):
    """Nothing but what a report must have."""
    data["artifacts"] = [a for a in data["artifacts"] if a["role"] == "target"]
    for artifact in data["artifacts"]:
        artifact.update(parity=None, inventory=None, speedup_over_teacher=None, speedup_over_float=None)
        artifact.update(agreement=None, negative_flip_rate=None, size_ratio_to_teacher=None, metrics=[])
    data.update(measurements=[], class_names=[])
    data["teacher"].update(artifact_ids=[], params=None, macs=None)
    data["data"].update(calibration=None, notes={})
    return data


@pytest.mark.parametrize("width", [1400, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["full", "minimal"])
def test_axe_finds_nothing_serious(show, full, sample, kind, scheme, width):
    page = show(full if kind == "full" else minimal(sample), width, color_scheme=scheme)
    for opened in (False, True):
        if opened:
            open_details(page)
        found = Axe().run(page).response
        assert len(found["passes"]) > 15  # it has looked
        serious = [
            (v["id"], v["impact"], [(n["target"], n["failureSummary"]) for n in v["nodes"][:3]])
            for v in found["violations"]
            if v["impact"] in ("serious", "critical")
        ]
        assert serious == []
