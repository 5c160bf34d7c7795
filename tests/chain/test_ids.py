"""Chains of ids: texts by a tokenizer that ships beside the file, and users with items to rank."""

import json

import numpy as np
import pytest
from sklearn.metrics import ndcg_score
from tokenizers import Tokenizer

import edgekd
from edgekd.errors import UsageError
from edgekd.runtimes import open_session
from tests.texts import FILLERS, TOPICS, sentences, write_csv, write_encoder

RUNTIMES = {"host": "litert", "x86-onnx": "onnxruntime"}


def files_of(report, target):
    (artifact,) = (a for a in report.artifacts if a.target == target)
    return artifact, {f.path.rpartition("/")[2].partition(".")[2]: f for f in artifact.files}


def stored(folder, record):
    with np.load(folder / record.path) as found:
        return dict(found)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    write_encoder(folder / "bert")
    rows = list(dict.fromkeys(sentences(1300)))
    write_csv(folder / "rows.csv", rows)
    recipe = {
        "name": "texts",
        "targets": list(RUNTIMES),
        "required_targets": ["host"],
        "task": {
            "kind": "text",
            "train": str(folder / "rows.csv"),
            "tokenizer": str(folder / "bert"),
            "max_length": 16,
            "val_fraction": 0.2,
            "test_fraction": 0.3,
        },
        "teacher": {
            "model": {"kind": "text_encoder", "folder": str(folder / "bert")},
            "train": {"epochs": 8, "optimizer": "adamw", "lr": 0.003, "batch_size": 16},
        },
        "student": {
            "model": {"kind": "text_encoder", "folder": str(folder / "bert"), "layers": [0], "min_count": 2}
        },
        "distill": {"epochs": 8, "optimizer": "adamw", "lr": 0.003, "batch_size": 16},
        "quantize": {"method": "ptq"},
        "gate": {"max_drop_pp": 10.0, "min_int8_share": 0.2},
    }
    report = edgekd.compress(recipe, workdir=folder / "work", store=folder / "store")
    return folder, rows, report


@pytest.mark.parametrize("target", RUNTIMES)
def test_texts_through_the_shipped_tokenizer_give_the_judged_answers(texts, target):
    folder, rows, report = texts
    artifact, files = files_of(report, target)
    (model,) = (f for name, f in files.items() if name in ("onnx", "tflite"))
    found = stored(folder / "work", artifact.predictions)
    tokenizer = Tokenizer.from_file(str(folder / "work" / files["tokenizer.json"].path))
    session = open_session(RUNTIMES[target], folder / "work" / model.path)
    assert [i.dtype for i in session.inputs] == ["int32"]
    lines = [int(str(i).partition(":")[2]) for i in found["sample_ids"]]
    ids = np.array([e.ids for e in tokenizer.encode_batch([rows[line - 2][0] for line in lines])], np.int32)
    np.testing.assert_allclose(session.run(ids), found["scores"], atol=1e-6)
    topics = sorted({topic for _, topic in rows})
    assert [topics[label] for label in found["labels"]] == [rows[line - 2][1] for line in lines]
    assert (found["scores"].argmax(1) == found["labels"]).mean() > 0.9
    assert artifact.inventory.int8_ops > 0 and artifact.input_spec.raw_dtype == "int32"


def test_tables_of_words_are_bytes_in_both_files(texts):
    """A word's vector is 16 bytes and a scale: as floats the table alone would be as large as the file."""
    _, _, report = texts
    for target in RUNTIMES:
        _, files = files_of(report, target)
        (model,) = (f for name, f in files.items() if name in ("onnx", "tflite"))
        assert model.size_bytes < 40_000
        artifact, _ = files_of(report, target)
        assert not any(op.startswith("EMBEDDING_LOOKUP") for op in artifact.inventory.ops)


def test_what_cannot_be_done_with_ids_is_refused_before_training(texts):
    folder, *_ = texts
    recipe = {
        "name": "texts",
        "targets": ["host"],
        "required_targets": ["host"],
        "task": {
            "kind": "text",
            "train": str(folder / "rows.csv"),
            "tokenizer": str(folder / "bert"),
            "val_fraction": 0.2,
            "test_fraction": 0.3,
        },
        "teacher": {
            "model": {"kind": "text_encoder", "folder": str(folder / "bert")},
            "train": {"epochs": 1, "mix": {"mixup": 0.2}},
        },
        "gate": {"max_drop_pp": 10.0},
        "quantize": {"method": "ptq"},
    }
    with pytest.raises(UsageError, match="mix does arithmetic with inputs, which are ids here"):
        edgekd.compress(recipe, workdir=folder / "no", store=folder / "other")
    recipe["teacher"]["train"] = {"epochs": 1}
    recipe["task"]["max_length"] = 33
    with pytest.raises(UsageError, match=r"takes 32 ids at most, task.max_length = 33"):
        edgekd.compress(recipe, workdir=folder / "no", store=folder / "other")


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    recipe = {
        "name": "lists",
        "targets": list(RUNTIMES),
        "required_targets": ["host"],
        "task": {
            "kind": "interactions",
            "users": 150,
            "items": 80,
            "taken": 20,
            "candidates": 16,
            "last_test": 4,
        },
        "teacher": {
            "model": {"kind": "recommender", "width": 16, "hidden": [32, 16]},
            "train": {"epochs": 6, "optimizer": "adamw", "lr": 0.01, "batch_size": 64},
        },
        "student": {"model": {"kind": "recommender", "width": 8, "hidden": [16, 8], "rows": 24}},
        "distill": {
            "epochs": 6,
            "optimizer": "adamw",
            "lr": 0.02,
            "batch_size": 64,
            "losses": [{"kind": "cross_entropy", "weight": 0.5}, {"kind": "listwise", "weight": 0.5}],
        },
        "quantize": {"method": "qat", "epochs": 1},
        "gate": {
            "metric": "ndcg@10",
            "query": "sample_id",
            "cluster": "user",
            "max_drop": 0.1,
            "min_int8_share": 0.3,
        },
    }
    return folder, recipe, edgekd.compress(recipe, workdir=folder / "work", store=folder / "store")


def test_lists_are_judged_by_ndcg_of_the_taken_item(lists):
    folder, _, report = lists
    values = {}
    for name, told in (("teacher", report.teacher), *((a.target, a) for a in report.artifacts if a.target)):
        found = stored(folder / "work", told.predictions)
        # scikit-learn takes equal scores in the mean over their orders too
        wanted = np.eye(16)[found["labels"]]
        values[name] = ndcg_score(wanted, found["scores"], k=10)
        assert told.metrics[0].name == "ndcg@10"
        assert told.metrics[0].value == pytest.approx(values[name], abs=1e-6)
    chance = np.mean([1 / np.log2(1 + place) if place <= 10 else 0 for place in range(1, 17)])
    assert values["teacher"] > chance + 0.1 and values["host"] > chance + 0.05
    check = next(c for c in report.verdict.checks if c.target == "host" and c.name == "ndcg@10")
    assert check.observed == pytest.approx(values["teacher"] - values["host"], abs=1e-6)


def test_the_file_ranks_from_names_by_the_ids_beside_it(lists):
    folder, _, report = lists
    _, files = files_of(report, "x86-onnx")
    numbers = json.loads((folder / "work" / files["ids.json"].path).read_text())
    session = open_session("onnxruntime", folder / "work" / files["onnx"].path)
    items = [*list(numbers["items"])[:15], "never seen"]
    fed = [numbers["users"]["u7"], *(numbers["items"].get(i, numbers["unseen"]) for i in items)]
    scores = session.run(np.array([fed], np.int32))
    assert scores.shape == (1, 16) and len(set(scores[0].tolist())) > 4


def test_lists_shorter_than_what_counts_are_refused(lists):
    folder, recipe, _ = lists
    short = recipe | {"task": recipe["task"] | {"candidates": 8}}
    with pytest.raises(UsageError, match=r"ndcg@10' of lists of 8: all of it is among the first"):
        edgekd.compress(short, workdir=folder / "no", store=folder / "other")


def offers(count, seed):
    """(text, topic, thing): a thing is two words of its own and one of its topic, among fillers."""
    rng = np.random.default_rng(seed)
    names = [f"{a}{b}" for a in "bcdfghjk" for b in "aeiou"]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    of = [pairs[i] for i in np.random.default_rng(seed + 9).permutation(len(pairs))[:count]]
    rows = []
    for number, pair in enumerate(of):
        topic = list(TOPICS)[number % len(TOPICS)]
        for _ in range(int(rng.integers(1, 5))):
            words = [*pair, str(rng.choice(TOPICS[topic])), *rng.choice(FILLERS, 2, replace=False)]
            rows.append((" ".join(rng.permutation(words)), topic, f"thing-{seed}-{number}"))
    return list(dict.fromkeys(rows))


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    write_encoder(folder / "bert")
    write_csv(folder / "train.csv", offers(320, 0))
    write_csv(folder / "test.csv", offers(60, 1))
    terms = [{"kind": "cross_entropy", "weight": 0.3}, {"kind": "cosine", "head": "vector"}]
    recipe = {
        "name": "search",
        "targets": list(RUNTIMES),
        "required_targets": ["host"],
        "task": {
            "kind": "text",
            "train": str(folder / "train.csv"),
            "test": str(folder / "test.csv"),
            "tokenizer": str(folder / "bert"),
            "max_length": 20,
            "val_fraction": 0.2,
            "vector": 6,
            "same": "thing",
            "on_overlap": "drop_from_train",
        },
        "teacher": {
            "model": {"kind": "text_encoder", "folder": str(folder / "bert")},
            "train": {"epochs": 12, "optimizer": "adamw", "lr": 0.005, "batch_size": 64, "patience": 12},
        },
        "student": {
            "model": {"kind": "text_encoder", "folder": str(folder / "bert"), "layers": [0], "min_count": 2}
        },
        "distill": {"epochs": 10, "optimizer": "adamw", "lr": 0.005, "batch_size": 32, "losses": terms},
        "quantize": {"method": "ptq"},
        "gate": {
            "metric": "nearest_hit@1",
            "query": "thing",
            "cluster": "thing",
            "max_drop_pp": 30.0,
            "min_int8_share": 0.2,
        },
    }
    return folder, recipe, edgekd.compress(recipe, workdir=folder / "work", store=folder / "store")


def hits_at_1(vectors, things):
    """Percent of those with a like whose nearest other is one; no two vectors of a test here are equal."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = unit @ unit.T
    np.fill_diagonal(near, -2)
    known = [list(things).count(thing) > 1 for thing in things]
    return 100 * np.mean((things[near.argmax(axis=1)] == things)[known])


def test_vectors_are_judged_by_what_lies_nearest(search):
    folder, _, report = search
    beside = stored(folder / "work", report.teacher.predictions)
    things, values = beside["thing"], {}
    for name, told in (("teacher", report.teacher), *((a.target, a) for a in report.artifacts if a.target)):
        found = stored(folder / "work", told.predictions)
        assert found["vectors"].shape == (len(things), 6) and found["scores"].shape == (len(things), 3)
        values[name] = hits_at_1(found["vectors"].astype(float), things)
        metric, accuracy = told.metrics
        assert (metric.name, accuracy.name) == ("nearest_hit@1", "accuracy")
        assert metric.value == pytest.approx(values[name], abs=100 / len(things))
        right = (found["scores"].argmax(axis=1) == found["labels"]).mean()
        assert accuracy.value == pytest.approx(100 * right)
    by_chance = 100 * 3 / len(things)
    assert values["teacher"] > 5 * by_chance and values["host"] > 5 * by_chance
    check = next(c for c in report.verdict.checks if c.target == "host" and c.name == "nearest_hit@1")
    assert check.observed == pytest.approx(values["teacher"] - values["host"], abs=100 / len(things))
    assert "clusters" in check.detail


def test_the_file_gives_classes_and_then_the_vector(search):
    folder, _, report = search
    artifact, files = files_of(report, "x86-onnx")
    found = stored(folder / "work", artifact.predictions)
    session = open_session("onnxruntime", folder / "work" / files["onnx"].path)
    tokenizer = Tokenizer.from_file(str(folder / "work" / files["tokenizer.json"].path))
    texts = [row[0] for row in offers(60, 1)]
    lines = [int(str(i).partition(":")[2]) for i in found["sample_ids"]]
    ids = np.array([e.ids for e in tokenizer.encode_batch([texts[line - 2] for line in lines])], np.int32)
    given = session.run(ids)
    np.testing.assert_allclose(given, np.c_[found["scores"], found["vectors"]], atol=1e-6)


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("gate", {"cluster": None}, "found or missed together: name their column"),
        ("gate", {"slices": {"label": {"max_drop_pp": 5.0}}}, "looks among all samples, and has no slices"),
        ("task", {"vector": None, "same": None}, "is of vectors, and networks of this task give none"),
        ("distill", {"losses": [{"kind": "kd"}]}, "no loss is about the head 'vector'"),
        (
            "distill",
            {"losses": [{"kind": "kd"}, {"kind": "kd", "head": "vector"}]},
            "the loss 'kd' is about classes, a vector has none",
        ),
        ("gate", {"query": "brand", "cluster": "brand"}, "the task names no column 'brand'"),
        ("gate", {"query": "sample_id"}, "it says which samples are alike"),
        ("gate", {"metric": "nearest_hit@500"}, "all are among the first"),
        ("distill", {"adversarial": {"epsilon": 0.1}}, "adversarial does arithmetic with inputs"),
        ("quantize", {"method": "qat", "epochs": 1, "learn_from": "both"}, "have no mean"),
        ("teacher", {"outputs": "probabilities"}, "a vector has none"),
    ],
)
def test_vectors_that_cannot_be_judged_or_taught_are_refused(search, table, change, message):
    folder, recipe, _ = search
    changed = {key: value for key, value in (recipe[table] | change).items() if value is not None}
    if table == "task":  # whose losses would be refused before
        recipe = recipe | {"distill": recipe["distill"] | {"losses": [{"kind": "kd"}]}}
    with pytest.raises(UsageError, match=message):
        edgekd.compress(recipe | {table: changed}, workdir=folder / "no", store=folder / "other")
