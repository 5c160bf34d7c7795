"""The state of a training after each epoch, from which a killed one goes on exactly."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgekd.store import write_atomic

STATE, BEST = "state.json", "best.safetensors"


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        history: one record an epoch.
        rate_scale: by which the learning rate is multiplied: 1, and half of it after each divergence.
        best: accuracy on val of the weights in `BEST`, percent, or what else is watched; None: nothing is.
        best_epoch: after which they were taken.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    rate_scale: float = 1.0
    best: float | None = None
    best_epoch: int = 0


def save(folder: Path, module: nn.Module, optimizer: Any, progress: Progress) -> None:
    """Network, objective and optimizer after an epoch; the JSON goes last: it names what is there."""
    epoch = len(progress.history)
    tensors = dict(module.state_dict())
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    save_tensors(tensors, folder / f"epoch-{epoch}.safetensors")
    write_atomic(folder / STATE, json.dumps(asdict(progress)))
    (folder / f"epoch-{epoch - 1}.safetensors").unlink(missing_ok=True)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes tensors so that no half-written file ever has the name."""
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, temporary)
    temporary.replace(path)


def load(folder: Path, module: nn.Module, optimizer: Any) -> Progress:
    """Puts the last checkpoint, if there is one, into network, objective and optimizer."""
    path = folder / STATE
    if not path.is_file():
        return Progress()
    progress = Progress(**json.loads(path.read_text()))
    tensors = load_file(folder / f"epoch-{len(progress.history)}.safetensors")
    module.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("optimizer.")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress
