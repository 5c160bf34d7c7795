"""Where and in which numbers a network is trained, and its teacher asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from edgekd import processes


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware; elsewhere autocast only costs time."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(name in flags for name in ("avx512_bf16", "amx_bf16", " bf16"))


def make_fabric(precision: str, unused: bool = False) -> Fabric:
    """Device, precision and processes in one object; "auto" takes bf16 where the hardware gains from it.

    `unused`: whether some weights may get no gradient, as those behind the layer that a loss looks at.
    """
    gains = torch.cuda.is_available() or cpu_has_bf16()
    chosen: Any = ("bf16-mixed" if gains else "32-true") if precision == "auto" else precision
    if processes.count() == 1:
        return Fabric(accelerator="auto", devices=1, precision=chosen)
    processes.join()
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    strategy = DDPStrategy(find_unused_parameters=unused)
    nodes = processes.count() // here
    fabric = Fabric(accelerator="auto", devices=here, num_nodes=nodes, strategy=strategy, precision=chosen)
    fabric.launch()
    return fabric


def on_processor(precision: str) -> torch.autocast:
    """The same precision for a network that only answers, and does so here."""
    wanted = precision == "bf16-mixed" or (precision == "auto" and cpu_has_bf16())
    return torch.autocast("cpu", torch.bfloat16, enabled=wanted)
