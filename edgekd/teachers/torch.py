"""Weights of a torch module from a file, without pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from edgekd.errors import UsageError


def load_checkpoint(module: nn.Module, path: Path) -> None:
    """Loads weights into `module` in place.

    Takes `.safetensors`, or a torch file that holds tensors only; a `state_dict` entry
    is unwrapped and a leading `module.` (from data-parallel training) is taken off.

    Raises:
        UsageError: no such file, not tensors only, or tensors that do not fit, named.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such checkpoint")
    state = {name.removeprefix("module."): value for name, value in _read(path).items()}
    own = module.state_dict()
    missing = [n for n in own if n not in state and not n.endswith("num_batches_tracked")]
    unknown = [n for n in state if n not in own]
    if missing or unknown:
        what = f"has no {missing[0]!r}" if missing else f"holds {unknown[0]!r}, which the network has not"
        raise UsageError(
            f"{path}: {what} ({len(missing)} missing, {len(unknown)} unknown)",
            hint="the checkpoint belongs to another network, or to other options of it",
        )
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise UsageError(
                f"{path}: {name} is {tuple(value.shape)}, the network's is {tuple(own[name].shape)}",
                hint="width, depth or number of classes differ",
            )
    module.load_state_dict(state, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
            return dict(found)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes either reader raise whatever it stumbled on
        raise UsageError(
            f"{path}: not a checkpoint of tensors only: {' '.join(str(error).split())[:200]}",
            hint="save it as safetensors, or as torch.save(model.state_dict())",
        ) from None
    state = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UsageError(f"{path}: holds no state dict", hint="save torch.save(model.state_dict())")
    return {str(name): value for name, value in state.items()}
