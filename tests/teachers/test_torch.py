import argparse

import numpy as np
import pytest
import torch
from nets import inputs, outputs, tiny_resnet
from safetensors.torch import save_file
from torch import nn

from edgekd.errors import UsageError
from edgekd.teachers.torch import load_checkpoint


@pytest.fixture
def trained():
    return tiny_resnet(seed=1)


def check(path, trained):
    fresh = tiny_resnet(seed=2)
    assert (outputs(fresh, inputs(3)) != outputs(trained, inputs(3))).any()
    load_checkpoint(fresh, path)
    np.testing.assert_array_equal(outputs(fresh, inputs(3)), outputs(trained, inputs(3)))


def test_safetensors(trained, tmp_path):
    save_file(trained.state_dict(), tmp_path / "net.safetensors")
    check(tmp_path / "net.safetensors", trained)


@pytest.mark.parametrize("suffix", ["pt", "pth", "th", "ckpt"])
def test_torch_files(trained, tmp_path, suffix):
    torch.save(trained.state_dict(), tmp_path / f"net.{suffix}")
    check(tmp_path / f"net.{suffix}", trained)


def test_torch_files_of_before_1_6(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "net.th", _use_new_zipfile_serialization=False)
    check(tmp_path / "net.th", trained)


def test_the_prefix_of_data_parallel_training_is_taken_off(trained, tmp_path):
    torch.save(nn.DataParallel(trained).state_dict(), tmp_path / "net.pt")
    check(tmp_path / "net.pt", trained)


def test_a_nested_state_dict_is_unwrapped(trained, tmp_path):
    state = {f"module.{k}": v for k, v in trained.state_dict().items()}
    torch.save({"epoch": 7, "best": 91.5, "arch": "resnet", "state_dict": state}, tmp_path / "net.pt")
    check(tmp_path / "net.pt", trained)


def test_counters_of_norms_may_be_missing(trained, tmp_path):
    state = {k: v for k, v in trained.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "net.safetensors")
    check(tmp_path / "net.safetensors", trained)


class Touch:
    """What an attacker's pickle does when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path):
    torch.save({"state_dict": {"stem.weight": Touch(tmp_path / "run")}}, tmp_path / "net.pt")
    with pytest.raises(
        UsageError, match=r"net\.pt: not a checkpoint of tensors only.*save it as safetensors"
    ):
        load_checkpoint(tiny_resnet(), tmp_path / "net.pt")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["module", "namespace"])
def test_pickled_objects_are_refused(trained, tmp_path, content):
    value = trained if content == "module" else {"args": argparse.Namespace(lr=1), "state_dict": {}}
    torch.save(value, tmp_path / "net.pt")
    with pytest.raises(UsageError, match=r"net\.pt: not a checkpoint of tensors only"):
        load_checkpoint(tiny_resnet(), tmp_path / "net.pt")


@pytest.mark.parametrize("value", [torch.zeros(3), [1, 2], {"state_dict": 3}, {"epoch": 3}])
def test_files_without_a_state_dict(tmp_path, value):
    torch.save(value, tmp_path / "net.pt")
    with pytest.raises(UsageError, match=r"net\.pt: holds no state dict"):
        load_checkpoint(tiny_resnet(), tmp_path / "net.pt")


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", b"\x80\x02", b"PK\x03\x04", bytes(200), b"\xff" * 64]
)
def test_damaged_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=rf"{name}: not a checkpoint of tensors only"):
        load_checkpoint(tiny_resnet(), tmp_path / name)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_truncated_files(trained, tmp_path, name, keep):
    path = tmp_path / name
    (save_file if name.endswith("tensors") else torch.save)(trained.state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(UsageError, match=rf"{name}: not a checkpoint of tensors only"):
        load_checkpoint(tiny_resnet(), path)


def test_no_file(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.pt: no such checkpoint"):
        load_checkpoint(tiny_resnet(), tmp_path / "absent.pt")


def test_weights_of_another_width(tmp_path):
    save_file(tiny_resnet(4).state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(UsageError, match=r"blocks\.0\.bn1\.bias is \(4,\), the network's is \(8,\)"):
        load_checkpoint(tiny_resnet(8), tmp_path / "net.safetensors")


def test_missing_and_unknown_tensors_are_counted(trained, tmp_path):
    state = dict(trained.state_dict())
    del state["head.weight"], state["head.bias"]
    save_file(state, tmp_path / "few.safetensors")
    with pytest.raises(UsageError, match=r"has no 'head\.weight' \(2 missing, 0 unknown\)"):
        load_checkpoint(tiny_resnet(), tmp_path / "few.safetensors")
    save_file({**trained.state_dict(), "fc.weight": torch.zeros(1)}, tmp_path / "many.safetensors")
    with pytest.raises(
        UsageError, match=r"holds 'fc\.weight', which the network has not \(0 missing, 1 unknown\)"
    ):
        load_checkpoint(tiny_resnet(), tmp_path / "many.safetensors")


def test_a_checkpoint_that_does_not_fit_changes_nothing(trained, tmp_path):
    state = {**trained.state_dict(), "head.bias": torch.zeros(7)}
    save_file(state, tmp_path / "net.safetensors")
    net = tiny_resnet(seed=2)
    before = outputs(net, inputs(3))
    with pytest.raises(UsageError):
        load_checkpoint(net, tmp_path / "net.safetensors")
    np.testing.assert_array_equal(outputs(net, inputs(3)), before)


class Published(nn.Module):
    """Names and shapes of akamaster's ResNet-20 for CIFAR-10: identity shortcuts, `linear` at the end."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        inner = 16
        for i, outer in enumerate((16, 32, 64), start=1):
            blocks = []
            for _ in range(3):
                block = nn.Module()
                block.conv1, block.bn1 = nn.Conv2d(inner, outer, 3, bias=False), nn.BatchNorm2d(outer)
                block.conv2, block.bn2 = nn.Conv2d(outer, outer, 3, bias=False), nn.BatchNorm2d(outer)
                blocks.append(block)
                inner = outer
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)


def test_published_weights(data_root):
    net = Published()
    path = data_root / "models" / "akamaster_resnet_cifar10" / "resnet20-12fca82f.th"
    load_checkpoint(net, path)
    raw = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    assert len(raw) >= 97
    for name, value in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, raw[f"module.{name}"]), name
    # Published: 0.27 M parameters.
    assert sum(p.numel() for p in net.parameters()) == 269_722
