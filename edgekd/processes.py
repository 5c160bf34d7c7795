"""Processes that were started together (torchrun): the first runs the chain, the others train along."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")

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


def tell(value: T) -> T:
    """What the first process says, to all: each calls it, and gets the first one's value."""
    if count() == 1:
        return value
    import torch.distributed as dist

    said = [value]
    dist.broadcast_object_list(said, src=0)
    return said[0]
