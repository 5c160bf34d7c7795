import pytest
import torch
from nets import inputs, tiny_resnet
from torch import nn

from edgekd.activations import Activations, check_paths, shapes_of
from edgekd.errors import UsageError


def test_layers_are_caught_while_the_block_lasts():
    net = tiny_resnet().eval()
    x = torch.from_numpy(inputs(3))
    with Activations(net, ["stem"]) as caught:
        net(x)
        assert torch.equal(caught.last()["stem"], net.stem(x))
        seen = caught.last()["stem"]
    net(x + 1)
    assert caught.last()["stem"] is seen  # no hook is left behind


def test_shapes_of_every_layer():
    net = tiny_resnet()
    shapes = shapes_of(net, torch.from_numpy(inputs(1)))
    assert shapes["stem"] == tuple(net.eval().stem(torch.from_numpy(inputs(1))).shape[1:])
    assert shapes["head"] == (5,) and "" not in shapes


def test_a_wrong_path_is_answered_with_the_right_ones():
    shapes = shapes_of(tiny_resnet(), torch.from_numpy(inputs(1)))
    with pytest.raises(
        UsageError, match=r"student: there is no layer 'stmm'; .*stem \(\d+, 8, 8\).*did you mean 'stem'"
    ):
        check_paths("student", ["head", "stmm"], shapes)
    check_paths("student", ["head", "stem"], shapes)


def test_an_output_that_a_later_layer_writes_over_is_refused():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    with Activations(net, ["0"]) as caught:
        net(torch.zeros(5, 3))
        assert caught.shapes() == {"0": (4,)}
        with pytest.raises(UsageError, match="layer '0': a later layer writes over its output"):
            caught.last()
    with Activations(net, ["1"]) as caught:
        net(torch.zeros(5, 3))
        assert caught.last()["1"].shape == (5, 4)
