"""Adversarial samples: small changes of the input that a network is most wrong about."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edgekd.batches import normalise
from edgekd.config import AdversarialConfig
from edgekd.losses.common import Batch
from edgekd.progress import Display
from edgekd.types import InputSpec, Task

EVAL_BATCH = 256
EVAL_STEPS = 20
# Of epsilon over the number of steps: enough to cross the ball and come back (Madry et al. 2017).
STEP_FACTOR = 2.5


def attack(
    module: nn.Module,
    x: Tensor,
    wrong: Callable[[Tensor], Tensor],
    config: AdversarialConfig,
    spec: InputSpec,
    steps: int | None = None,
) -> Tensor:
    """Model inputs (B, *shape) changed so that `wrong` of the outputs (a scalar) is large.

    Projected gradient ascent from a random start, each raw value within epsilon of its own, in shares of the
    raw range, and within that range (PGD: Madry et al. 2017, arXiv 1706.06083).

    Args:
        module: the network; it is left in the mode that it was in, its weights have no gradient from here.
        x: model inputs.
        wrong: what is driven up, from outputs (B, K).
        config: epsilon and steps.
        spec: how inputs are prepared.
        steps: in place of the config's.
    """
    along = (1, -1) + (1,) * (x.dim() - 2)

    def prepared(value: float) -> Tensor:
        ends = (value / spec.scale - np.asarray(spec.mean)) / np.asarray(spec.std)
        return torch.as_tensor(ends, dtype=x.dtype, device=x.device).reshape(along)

    low, high = (prepared(end) for end in spec.raw_range)
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    radius = config.epsilon * (high - low)
    # A sample may lie outside of what train has shown: it is not pulled in.
    low, high = torch.minimum(low, x), torch.maximum(high, x)
    count = steps or config.steps
    size = radius * (STEP_FACTOR / count)
    training = module.training
    module.eval()
    found = (x + (2 * torch.rand_like(x) - 1) * radius).clamp(low, high)
    for _ in range(count):
        found = found.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(wrong(module(found).float()), found)
        with torch.no_grad():
            found = found + size * gradient.sign()
            found = torch.minimum(torch.maximum(found, x - radius), x + radius).clamp(low, high)
    module.train(training)
    return found.detach()


def wrong_about(batch: Batch, num_classes: int | None = None) -> Callable[[Tensor], Tensor]:
    """What a student is attacked with: how far it is from the teacher, or, without one, from the labels.

    Args:
        batch: the teacher's outputs or labels of the samples.
        num_classes: of the first outputs, which are judged and attacked; None: all outputs are.
    """

    def from_teacher(outputs: Tensor) -> Tensor:
        assert batch.teacher is not None
        found, said = (functional.log_softmax(x[:, :num_classes], dim=1) for x in (outputs, batch.teacher))
        return functional.kl_div(found, said, reduction="sum", log_target=True)

    def from_labels(outputs: Tensor) -> Tensor:
        assert batch.labels is not None

        def lost(labels: Tensor) -> Tensor:
            return functional.cross_entropy(
                outputs[:, :num_classes], labels, reduction="none", ignore_index=-1
            )

        if batch.shares is None or batch.other_labels is None:
            return lost(batch.labels).sum()
        return (batch.shares * lost(batch.labels) + (1 - batch.shares) * lost(batch.other_labels)).sum()

    return from_labels if batch.teacher is None else from_teacher


def robust_predictions(
    module: nn.Module, task: Task, config: AdversarialConfig, seed: int, display: Display
) -> NDArray[np.float32]:
    """Scores (N, classes) of test samples attacked with what is known of their labels, 20 steps or more."""
    split, spec, classes = task.splits["test"], task.input_spec, task.num_classes
    assert split.labels is not None  # test has them
    torch.manual_seed(seed)
    parts = []
    starts = range(0, len(split), EVAL_BATCH)
    for start in display.track(starts, f"attacked {split.name}", len(starts)):
        raw = torch.from_numpy(np.array(split.inputs[start : start + EVAL_BATCH], order="C"))
        labels = torch.from_numpy(np.array(split.labels[start : start + EVAL_BATCH]))

        def wrong(outputs: Tensor, labels: Tensor = labels) -> Tensor:
            return functional.cross_entropy(outputs[:, :classes], labels, reduction="sum")

        steps = max(EVAL_STEPS, config.steps)
        attacked = attack(module, normalise(raw, spec), wrong, config, spec, steps)
        with torch.no_grad():
            parts.append(module.eval()(attacked)[:, :classes].float().numpy())
    return np.concatenate(parts)
