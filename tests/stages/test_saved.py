import json
from types import SimpleNamespace

import nets
import numpy as np
import pytest
import torch
from torch import nn

from edgekd.errors import StoreError, UsageError
from edgekd.prune import structured
from edgekd.quantize import qat
from edgekd.stages import saved
from edgekd.store import Store
from edgekd.training import predict

MODEL = {"model": {"kind": "resnet", "blocks": [1, 1], "width": 8}, "role": "student"}
EXAMPLE = torch.from_numpy(nets.inputs(1))


@pytest.fixture
def context(tiny_task):
    return SimpleNamespace(task=tiny_task, seed=5)


def keep(store, module, context, architecture):
    return store.put("s", "a" * 64, lambda folder: saved.save(folder, module, context, architecture))


def right_on_val(net, context):
    val = context.task.splits["val"]
    answers = nets.outputs(net, context.task.input_spec.preprocess(val.inputs)).argmax(axis=1)
    return 100 * float(np.mean(answers == val.labels))


def same(one, other):
    """Whether two networks give the very same bits, run with the same layout in memory."""
    a, b = (predict(net, nets.images(9), nets.SPEC) for net in (one, other))
    return (a == b).all()


def pruned(net):
    return structured.prune(
        net,
        EXAMPLE,
        nets.prune_config("params", keep=0.7),
        limit=int(0.7 * sum(p.numel() for p in net.parameters())),
        channel_multiple=2,
        bytes_per_weight=4,
        samples=nets.samples(),
        seed=0,
    )


def test_a_network_comes_back_as_it_was_saved(context, tmp_path):
    net = nets.tiny_resnet()  # other weights than the seed of the run gives
    entry = keep(Store(tmp_path), net, context, MODEL)
    loaded = saved.load(entry, context)
    assert not loaded.training
    assert same(loaded, net)
    expected = nets.outputs(net, context.task.input_spec.preprocess(context.task.splits["test"].inputs))
    np.testing.assert_allclose(saved.test_scores(entry), expected, atol=1e-6)
    # stem, two 3x3 a block (on 64 and on 16 pixels), shortcut, head
    macs = 64 * 8 * 18 + 2 * 64 * 8 * 72 + 16 * (16 * 72 + 16 * 144 + 16 * 8) + 80
    params = sum(p.numel() for p in net.parameters())
    found = {"params": params, "macs": macs, "head_accuracy": {}, "val_accuracy": right_on_val(net, context)}
    assert entry.result == found


def test_a_pruned_and_quantized_network_comes_back_too(context, tmp_path):
    cut, history = pruned(nets.tiny_resnet())
    architecture = {**MODEL, "pruning_history": [history]}
    entry = keep(Store(tmp_path / "a"), cut, context, architecture)
    loaded = saved.load(entry, context)
    assert same(loaded, cut)
    assert entry.result["params"] == sum(p.numel() for p in cut.parameters())

    net = qat.prepare(cut, nets.inputs(32), nets.policy())
    described = {**architecture, "quantizers": qat.describe(net)}
    entry = keep(Store(tmp_path / "b"), net, context, described)
    assert same(saved.load(entry, context), net)
    # Fake quantizers are neither weights nor work: the counts are those of the network it came from.
    assert entry.result == {"head_accuracy": {}, "val_accuracy": right_on_val(net, context)}
    assert saved.architecture_of(entry) == json.loads(json.dumps(described))


def test_no_pickle_is_written_or_read(context, tmp_path):
    entry = keep(Store(tmp_path), nets.tiny_resnet(), context, MODEL)
    scores = ["test_scores.npy", "val_scores.npy"]
    assert sorted(entry.files) == ["architecture.json", "model.safetensors", *scores]
    (entry.folder / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(StoreError, match=r"model\.safetensors: damaged"):
        saved.load(entry, context)


def test_accuracy_by_hand(context):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.eye(5)[3].expand(len(x), 5)

    labels = context.task.splits["val"].labels
    assert saved.accuracy_on(Constant(), "val", context) == pytest.approx(
        100 * (labels == 3).sum() / len(labels)
    )


class Gives(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        return self.what(x)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda x: x.flatten(1)[:, :4], r"student: gives outputs of shape \(1, 4\), the task has 5 classes"),
        (lambda x: x, r"gives outputs of shape \(1, 2, 8, 8\), the task has 5 classes"),
        (lambda x: {"logits": x}, r"gives outputs of shape dict, the task has 5 classes"),
        (lambda x: x @ torch.ones(3, 3), r"student: cannot take an input of shape \(1, 2, 8, 8\)"),
    ],
)
def test_networks_that_do_not_fit_the_task(context, what, message):
    context.object_of = lambda role: Gives(what)
    with pytest.raises(UsageError, match=message):
        saved.fresh({"model": {"kind": "object"}, "role": "student"}, context)


def test_the_example_is_the_first_training_sample(context):
    np.testing.assert_allclose(saved.example_input(context.task).numpy(), nets.inputs(1), atol=1e-6)
