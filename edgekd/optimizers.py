"""Optimizers and their learning rates."""

from __future__ import annotations

import math

import torch
from torch import nn

from edgekd.config import TrainConfig
from edgekd.errors import UsageError
from edgekd.muon import Muon, kernels


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of a step.

    cosine: linear warm-up, then half a cosine to zero (Loshchilov & Hutter 2016, arXiv 1608.03983).
    one_cycle: half a cosine from 1/25 of the peak up over 30% of the steps, half a cosine down to
    1/250,000 of it (Smith & Topin 2017, arXiv 1708.07120).
    """
    total = config.epochs * steps_per_epoch
    if config.schedule == "one_cycle":
        top = max(1.0, 0.3 * total - 1)
        if step <= top:
            return _between(config.lr / 25, config.lr, step / top)
        return _between(config.lr, config.lr / 25e4, (step - top) / max(1.0, total - 1 - top))
    warmup = min(int(config.warmup_epochs * steps_per_epoch), total - 1)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _between(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))


def make_optimizer(
    module: nn.Module, config: TrainConfig, what: str, objective: nn.Module | None = None
) -> torch.optim.Optimizer:
    """The optimizer of the config; weight decay on tensors of two dimensions or more.

    What the losses learn themselves is trained along, without decay.

    Raises:
        UsageError: the network of stage `what` has nothing that the optimizer is for.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices = kernels(module) if config.optimizer == "muon" else []
    if config.optimizer == "muon" and not matrices:
        raise UsageError(
            f"{what}: optimizer = 'muon' is for networks with convolutions, this one has none",
            hint='choose "sgd" or "adamw"',
        )
    chosen = {id(p) for p in matrices}
    others = [p for p in trained if id(p) not in chosen]
    groups = [
        {"params": [p for p in others if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
    ]
    if objective is not None and (learned := list(objective.parameters())):
        groups.append({"params": learned, "weight_decay": 0.0})
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)
    if config.optimizer == "muon":
        orthogonal = {"params": matrices, "weight_decay": config.weight_decay, "orthogonal": True}
        return Muon([orthogonal, *groups], lr=config.lr)
    return torch.optim.AdamW(groups, lr=config.lr)
