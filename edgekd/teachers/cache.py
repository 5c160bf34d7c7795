"""What a teacher says about each training sample, computed once: (views, N, classes) in fp16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.batches import View, mapped_view
from edgekd.config import MixConfig
from edgekd.errors import TrainingError
from edgekd.progress import Display
from edgekd.store import reserved_memmap, write_atomic
from edgekd.teachers import Teacher
from edgekd.training import EVAL_BATCH
from edgekd.types import InputSpec, Split

BATCHES_A_SYNC = 20


def build(
    teacher: Teacher,
    split: Split,
    spec: InputSpec,
    names: Sequence[str],
    mix: MixConfig,
    *,
    views: int,
    num_outputs: int,
    seed: int,
    path: Path,
    display: Display,
) -> None:
    """Writes the teacher's logits for every sample in every augmented view to a .npy file.

    20 bytes a sample and view for 10 classes. View v holds the outputs on the very pixels
    that the student sees in the epochs that use view v. How many batches are on disk stands in
    a file beside `path`, so that a build that was killed is gone on with.

    Raises:
        TrainingError: an output is NaN or infinite, or too large for fp16.
    """
    count = path.with_suffix(f".batches-of-{EVAL_BATCH}")
    done = int(count.read_text()) if path.is_file() and count.is_file() else 0
    if done:
        out: NDArray[np.float16] = np.load(path, mmap_mode="r+", allow_pickle=False)
    else:
        count.unlink(missing_ok=True)  # of a file that is gone: it must not vouch for this one
        out = reserved_memmap(path, np.float16, (views, len(split), num_outputs))
    starts = [(v, s) for v in range(views) for s in range(0, len(split), EVAL_BATCH)]
    total, starts, drawn_for = len(starts), starts[done:], None
    into: Any = None
    for view, start in display.track(starts, "teacher outputs", len(starts)):
        if view != drawn_for:
            seen, drawn_for = View(split, spec, names, mix, seed, view), view
            if into is not None:
                into.flush()
            into = mapped_view(out, view)
        stop = min(start + EVAL_BATCH, len(split))
        x = seen.inputs(np.arange(start, stop))
        with np.errstate(over="ignore"):  # what is too large for fp16 is refused below
            logits = teacher(x.numpy()).astype(np.float16)
        if not np.isfinite(logits).all():
            bad = str(split.ids[start + int(np.argwhere(~np.isfinite(logits))[0][0])])
            raise TrainingError(
                f"teacher: output for sample {bad!r} is not a finite fp16 number",
                hint="the teacher diverged, or its logits are beyond 65504",
            )
        into[start:stop] = logits
        done += 1
        if done % BATCHES_A_SYNC == 0 or done == total:
            into.flush()
            write_atomic(count, str(done))
