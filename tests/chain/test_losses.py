"""Every loss trains a student, in a whole run's own stages."""

import json
import tomllib

import pytest
from runs import TINY

import edgekd
from edgekd import losses

LAYERS = {"student_layer": "body.2", "teacher_layer": "body.2"}  # 32 features and 64
# Of an MLP there are no images to attend to: the layer test of attention is in tests/losses.
KINDS = [kind for kind in losses.LOSSES if kind != "attention"]


@pytest.fixture(scope="module")
def copied(finished, tmp_path_factory):
    return finished.copy(tmp_path_factory.mktemp("losses"))


def distilled(copied, terms, **more):
    """What the distill stage says; the teacher is the one that the tiny run trained."""
    recipe = tomllib.loads(TINY)
    recipe["distill"] |= {"losses": terms, "epochs": 4, **more}
    before = set(copied.store.glob("distill-*"))
    edgekd.compress(recipe, until="distill", store=copied.store, workdir=copied.folder / "work")
    (new,) = set(copied.store.glob("distill-*")) - before
    return json.loads((new / "result.json").read_text())["result"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_learns_from_each_loss(copied, kind):
    options = {"kind": kind}
    if kind in ("hint", "crd", "similarity", "rkd_distance", "rkd_angle"):
        options |= LAYERS
    if kind == "crd":
        options |= {"negatives": 32, "width": 8, "weight": 0.02}
    if kind == "dist":
        options["temperature"] = 1.0
    if kind in ("dkd", "pairwise_margin"):
        options["weight"] = 0.1
    if kind == "contrastive":  # which is about angles, and leaves the classes' scores small
        options["weight"] = 0.02
    terms = [options] if kind == "cross_entropy" else [options, {"kind": "cross_entropy", "weight": 0.5}]
    entry = distilled(copied, terms)
    history = entry["history"]
    assert history[-1][kind] < history[0][kind]
    assert entry["val_accuracy"] > 20  # ten classes, four short epochs
    # A loss on layers runs the teacher along; others take its cached outputs.
    assert set(history[0]) == {"epoch", "loss", "lr", *(term["kind"] for term in terms)}


@pytest.mark.parametrize("weighting", ["uncertainty", "gradient_norm"])
def test_a_student_learns_with_adapted_weights(copied, weighting):
    terms = [{"kind": "cross_entropy"}, {"kind": "kd"}, {"kind": "hint", **LAYERS}]
    entry = distilled(copied, terms, weighting=weighting)
    assert entry["val_accuracy"] > 20


def test_another_seed_is_another_student_of_the_same_teacher(copied):
    teachers = sorted(copied.store.glob("network-*")), sorted(copied.store.glob("outputs-*"))
    terms = [{"kind": "kd", "temperature": 3.0}]
    first, second = (distilled(copied, terms, seed=seed) for seed in (1, 2))
    assert first["history"] != second["history"]
    assert teachers == (sorted(copied.store.glob("network-*")), sorted(copied.store.glob("outputs-*")))


def test_a_student_distilled_against_attacks(copied):
    terms = [{"kind": "cross_entropy", "weight": 0.3}, {"kind": "kd", "temperature": 2.0}]
    plain = distilled(copied, terms)
    entry = distilled(copied, terms, adversarial={"epsilon": 0.1, "steps": 2})
    assert "robust_accuracy" not in plain
    assert 5 < entry["robust_accuracy"] < entry["val_accuracy"]
