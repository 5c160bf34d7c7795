"""Processes that were started together (torchrun): the first runs the chain, the others train along."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# Others wait while the first does what takes no training: a teacher's outputs may take hours.
PATIENCE = timedelta(days=7)


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many were started together; 1 where nobody said so."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> None:
    """Meets the others; alone, and a second time, it does nothing. All need the same folders."""
    if count() == 1:
        return
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group(timeout=PATIENCE)


def tell(value: Any) -> Any:
    """What the first process says (JSON-able), to all: each calls it, and gets the first one's value."""
    if count() == 1:
        return value
    import torch
    import torch.distributed as dist

    # torch's own way to send an object is pickle.
    said = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    size = torch.tensor(len(said))
    dist.broadcast(size, src=0)
    heard = said if rank() == 0 else torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(heard, src=0)
    return json.loads(heard.numpy().tobytes())


def average(tensor: Tensor) -> None:
    """Puts the mean over all processes in place of a tensor; alone, it leaves it as it is."""
    if count() == 1:
        return
    import torch.distributed as dist

    dist.all_reduce(tensor)
    tensor /= count()


def gathered(tensor: Tensor) -> Tensor:
    """The tensors (B, ...) of all processes one after the other, without a gradient."""
    if count() == 1:
        return tensor.detach()
    import torch
    import torch.distributed as dist

    parts = [torch.empty_like(tensor) for _ in range(count())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)
