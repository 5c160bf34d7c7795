"""8-bit weights that are turned back when the file is loaded: small files, and nothing said of speed."""

import tomllib

from runs import TINY

import edgekd
from edgekd import config

SCHEME = "weight_only_wi8_afp32"


def test_weight_only_files_are_small_and_judged_without_a_claim_of_speed(tmp_path):
    targets = []
    for name in ("host", "x86-onnx"):
        target = config.load_target(name)
        artifact = target.artifact.model_copy(update={"scheme": SCHEME})
        targets.append(target.model_copy(update={"name": f"{name}-small", "artifact": artifact}))
    recipe = tomllib.loads(TINY) | {"required_targets": ["host-small", "x86-onnx-small"]}
    recipe["student"]["model"]["hidden"] = [256, 256]
    report = edgekd.compress(recipe, targets=targets, store=tmp_path / "store", workdir=tmp_path / "work")
    params = report.stages[-1].params
    for artifact in report.artifacts:
        if artifact.role == "target":
            assert artifact.scheme == SCHEME and params < artifact.size_bytes < 1.3 * params
        elif artifact.role == "student_float":
            assert artifact.size_bytes > 4 * params
    found = {check.name: check.status for check in report.verdict.checks}
    assert found["int8_share"] == "NOT_APPLICABLE" and "int8_beats_float" not in found
    assert found["accuracy"] in ("PASS", "INCONCLUSIVE", "FAIL")
