"""How images and weights lie in memory while a network trains or answers."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def lay_out(module: nn.Module, shape: tuple[int, ...], training: bool = False) -> torch.memory_format:
    """Lays a network's weights out for inputs (B, *shape) and returns how those should lie.

    Channels last where it can be: convolutions take 0.5 to 0.9 of the time. A forward that calls
    `.view` on what a convolution gave cannot run so, and keeps what it was written for.

    Args:
        module: the network; its weights may move in memory and nothing else changes.
        shape: of a sample.
        training: whether it will be trained: another forward, maybe.
    """
    if len(shape) != 3:
        return torch.contiguous_format
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    was, buffers = module.training, [(b, b.clone()) for b in module.buffers()]
    found = torch.channels_last
    try:
        with torch.random.fork_rng(devices=[]):
            module.train(training).to(memory_format=found)  # type: ignore[call-overload]  # torch's stub lacks it
            module(torch.zeros(2, *shape, device=device).contiguous(memory_format=found))
    except Exception:  # whatever it is, it will come again on real samples if it is not the layout's fault
        found = torch.contiguous_format
        module.to(memory_format=found)  # type: ignore[call-overload]
    finally:
        module.train(was)
        for buffer, before in buffers:
            buffer.copy_(before)
    return found
