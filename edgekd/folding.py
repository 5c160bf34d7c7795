"""BatchNorms as the layers that integer kernels know: folded into the one before, or on their own."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from edgekd import traceable

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """A copy with every BatchNorm folded into the convolution or linear layer before it.

    Quantizers must see the folded weights: left apart, no runtime builds an integer
    convolution from the pair. The copy keeps the module's own classes (a traced
    GraphModule would send NNCF down another path).

    Raises:
        ExportError: the module's forward cannot be traced, with the place and the reason.
    """
    folded = copy.deepcopy(module).eval()
    if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in folded.modules()):
        return folded  # also of networks that cannot be traced
    try:
        graph = fx.symbolic_trace(folded).graph
    except Exception as error:  # torch.fx raises many types; all of them mean the same here
        raise traceable.refusal(module, error) from error
    modules = dict(folded.named_modules())
    calls: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[node.target] = calls.get(node.target, 0) + 1
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], nn.modules.batchnorm._BatchNorm):
            continue
        before, alone = node.args[0], True
        while alone and before.op == "call_module" and isinstance(modules[before.target], _NOTHING):
            before, alone = before.args[0], len(before.users) == 1
        fuse = _fuser(modules.get(before.target)) if before.op == "call_module" else None
        alone &= len(before.users) == 1 and modules[node.target].running_mean is not None
        if fuse is None or not alone or calls[before.target] != 1 or calls[node.target] != 1:
            continue  # such a BatchNorm stays as it is: it still exports, only as an operator of its own
        folded.set_submodule(before.target, fuse(modules[before.target], modules[node.target]))
        folded.set_submodule(node.target, nn.Identity())
    return folded


# What these do when nothing is trained.
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def _fuser(module: nn.Module | None):  # type: ignore[no-untyped-def]
    if isinstance(module, CONVOLUTIONS):
        return fuse_conv_bn_eval
    return fuse_linear_bn_eval if isinstance(module, nn.Linear) else None


def for_integers(module: nn.Module) -> nn.Module:
    """As `fold_batch_norm`; what is left of BatchNorms of images are depthwise convolutions of one pixel.

    A norm before its activation (pre-activation ResNets) or behind a concatenation (DenseNets) has no
    convolution of its own. No runtime has an 8-bit norm, and NNCF stumbles over one; depthwise kernels
    compute the same, a factor and a bias for each channel.
    """
    folded = fold_batch_norm(module)
    made: dict[nn.Module, nn.Module] = {}
    for path, norm in list(folded.named_modules(remove_duplicate=False)):
        # A class of a user's own may compute more.
        if type(norm) is nn.BatchNorm2d and norm.running_mean is not None:
            folded.set_submodule(path, made.setdefault(norm, _depthwise(norm)))
    return folded


@torch.no_grad()
def _depthwise(norm: nn.BatchNorm2d) -> nn.Module:
    channels = norm.num_features
    # As a convolution that does nothing, with the norm folded into it.
    same = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
    same.weight.fill_(1.0)
    return fuse_conv_bn_eval(same.eval(), norm)
