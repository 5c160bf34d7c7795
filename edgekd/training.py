"""The one training loop: teachers, distillation, pruning recovery and QAT all call `fit`.

Everything random is a function of (seed, epoch), so a run that was killed and goes on
from its last checkpoint ends with the weights of an undisturbed run.
"""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgekd import augment
from edgekd.activations import Activations
from edgekd.config import TrainConfig
from edgekd.errors import TrainingError, UsageError
from edgekd.losses.common import Batch
from edgekd.muon import Muon, kernels
from edgekd.objective import Objective
from edgekd.progress import Display
from edgekd.store import write_atomic
from edgekd.types import InputSpec, Split

EVAL_BATCH = 256


@dataclass(frozen=True)
class TrainingSet:
    """Samples to train on.

    Attributes:
        split: raw samples and labels.
        spec: how they are prepared.
        teacher: cached teacher logits (views, N, classes), or None.
        views: augmented views to cycle through; without a teacher every epoch has one of its own.
        seed: of augmentation: the views that the teacher saw.
        live: the teacher itself, where losses look into it; then it sees every batch and `teacher` is None.
        student_layers: module paths in the student that losses name.
        teacher_layers: the same in the live teacher.
        order_seed: of the order of samples and of what else is drawn; `seed` if left out.
    """

    split: Split
    spec: InputSpec
    teacher: NDArray[np.float16] | None
    views: int
    seed: int
    live: nn.Module | None = None
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()
    order_seed: int | None = None

    def draw(self, *entropy: int) -> np.random.Generator:
        """A generator of its own for each epoch and purpose."""
        return np.random.default_rng([self.seed if self.order_seed is None else self.order_seed, *entropy])


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware; elsewhere autocast only costs time."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(name in flags for name in ("avx512_bf16", "amx_bf16", " bf16"))


def make_fabric(precision: str) -> Fabric:
    """Device, precision and processes in one object; "auto" takes bf16 where the hardware gains from it."""
    gains = torch.cuda.is_available() or cpu_has_bf16()
    chosen = ("bf16-mixed" if gains else "32-true") if precision == "auto" else precision
    return Fabric(accelerator="auto", devices=1, precision=chosen)  # type: ignore[arg-type]


def normalise(raw: Tensor, spec: InputSpec) -> Tensor:
    """Raw samples (B, *shape) to model inputs; the torch twin of `InputSpec.preprocess`."""
    along = (1, -1) + (1,) * (len(spec.shape) - 1)
    mean = torch.tensor(spec.mean, device=raw.device).reshape(along)
    std = torch.tensor(spec.std, device=raw.device).reshape(along)
    x = (raw.float() / spec.scale - mean) / std
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


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


def fit(
    module: nn.Module,
    data: TrainingSet,
    objective: Objective,
    config: TrainConfig,
    *,
    what: str,
    display: Display,
    checkpoint: Path,
) -> list[dict[str, float]]:
    """Trains `module` in place; returns one record an epoch: total loss, each loss by name, learning rate.

    Args:
        module: the network; its parameters change.
        data: training samples, with what the teacher says where the objective wants it.
        objective: what is minimised; trained along where it learns something itself.
        config: epochs, optimizer, schedule, augmentation.
        what: name of the stage, for the display and errors.
        display: where progress is shown.
        checkpoint: folder that keeps the state after each epoch.

    Raises:
        TrainingError: the loss is NaN or infinite; names epoch and step.
    """
    fabric = make_fabric(config.precision)
    if len(data.spec.shape) == 3:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    optimizer = make_optimizer(module, config, what, objective)
    both = nn.ModuleDict({"model": module, "objective": objective})
    average = None
    if config.ema_decay is not None:
        mean = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]  # torch's own
        both["average"] = average = AveragedModel(module, multi_avg_fn=mean, use_buffers=True)
    history, first_epoch = _load(checkpoint, both, optimizer)
    wrapped, optimizer = fabric.setup(module, optimizer)
    both.to(fabric.device)
    parameters = [p for p in module.parameters() if p.requires_grad]
    size = min(config.batch_size, len(data.split))
    steps = len(data.split) // size  # the last, smaller batch is left out: the next epoch's order differs
    left = (config.epochs - first_epoch) * steps
    ticks = iter(display.track(range(left), what, left))
    with ExitStack() as stack:
        layers = stack.enter_context(Activations(module, data.student_layers))
        teacher = _Live(data, fabric, stack) if data.live is not None else None
        for epoch in range(first_epoch, config.epochs):
            torch.manual_seed(int(data.draw(epoch).integers(2**62)))
            module.train()
            total, parts = 0.0, dict.fromkeys(objective.names, 0.0)
            for step, (x, picked, *known) in enumerate(_batches(data, config, epoch, size, steps)):
                done = epoch * steps + step
                rate = learning_rate(config, done, steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                x, picked = fabric.to_device(x), fabric.to_device(picked)
                labels, logits = (None if k is None else fabric.to_device(k) for k in known)
                student = wrapped(x).float()
                own_layers = {path: layer.float() for path, layer in layers.last().items()}
                progress = done / (config.epochs * steps)
                batch = Batch(student, logits, labels, picked, own_layers, progress=progress)
                if teacher is not None:
                    batch = teacher.looks_at(x, batch)
                value = objective(batch, parameters)
                if not torch.isfinite(value):
                    raise TrainingError(
                        f"{what}: the loss is {value.item()} at epoch {epoch + 1}, step {step + 1}",
                        hint="lower lr, or set grad_clip; look for NaN in the data",
                    )
                optimizer.zero_grad()
                fabric.backward(value)
                if config.grad_clip is not None:
                    fabric.clip_gradients(wrapped, optimizer, max_norm=config.grad_clip)
                optimizer.step()
                if average is not None:
                    average.update_parameters(module)
                total += value.item()
                for name, part in objective.last.items():
                    parts[name] += part / steps
                next(ticks)
            history.append({"epoch": epoch + 1, "loss": total / steps, "lr": rate, **parts})
            _save(checkpoint, both, optimizer, history)
    next(ticks, None)  # lets the display finish
    if average is not None:
        module.load_state_dict(average.module.state_dict())
    module.cpu().eval()  # from wherever Fabric had put it: all that follows runs on the processor
    return history


class _Live:
    """The teacher beside the student, on the same pixels, in the precision of the training."""

    def __init__(self, data: TrainingSet, fabric: Fabric, stack: ExitStack) -> None:
        assert data.live is not None
        self._module = fabric.to_device(data.live.eval())
        self._fabric = fabric
        self._layers = stack.enter_context(Activations(self._module, data.teacher_layers))

    @torch.no_grad()
    def looks_at(self, x: Tensor, batch: Batch) -> Batch:
        """The batch with the teacher's outputs and layers."""
        with self._fabric.autocast():
            outputs = self._module(x)
        layers = {path: layer.float() for path, layer in self._layers.last().items()}
        return replace(batch, teacher=outputs.float(), teacher_layers=layers)


def _batches(data: TrainingSet, config: TrainConfig, epoch: int, size: int, steps: int):  # type: ignore[no-untyped-def]
    """Yields (inputs, places in the split, labels or None, teacher logits or None) of one epoch."""
    split, spec = data.split, data.spec
    view = epoch % data.views if data.teacher is not None else epoch
    params = torch.from_numpy(augment.draw(len(split), config.augment, spec.shape, data.seed, view))
    order = data.draw(epoch, 1).permutation(len(split))
    for step in range(steps):
        picked = np.sort(order[step * size : (step + 1) * size])  # in order: memory-mapped files like it
        raw = torch.from_numpy(np.ascontiguousarray(split.inputs[picked]))
        x = normalise(augment.apply(raw, params[picked], spec.raw_range[0]), spec)
        labels = None
        if split.labels is not None:
            labels = torch.from_numpy(np.ascontiguousarray(split.labels[picked]))
        teacher = None
        if data.teacher is not None:
            teacher = torch.from_numpy(np.asarray(data.teacher[view][picked], np.float32))
        yield x, torch.from_numpy(picked), labels, teacher


def _save(folder: Path, module: nn.Module, optimizer: Any, history: list[dict[str, float]]) -> None:
    """Network, objective and optimizer after an epoch; the JSON goes last: it names what is there."""
    epoch = len(history)
    tensors = {k: v.contiguous() for k, v in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).contiguous()
    temporary = folder / f".epoch-{epoch}.tmp"
    save_file({k: v.clone() for k, v in tensors.items()}, temporary)
    temporary.replace(folder / f"epoch-{epoch}.safetensors")
    write_atomic(folder / "history.json", json.dumps(history))
    (folder / f"epoch-{epoch - 1}.safetensors").unlink(missing_ok=True)


def _load(folder: Path, module: nn.Module, optimizer: Any) -> tuple[list[dict[str, float]], int]:
    """Puts the last checkpoint into network, objective and optimizer; (history, next epoch)."""
    path = folder / "history.json"
    if not path.is_file():
        return [], 0
    history: list[dict[str, float]] = json.loads(path.read_text())
    tensors = load_file(folder / f"epoch-{len(history)}.safetensors")
    module.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("optimizer.")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return history, len(history)


@torch.no_grad()
def predict(module: nn.Module, inputs: NDArray[Any], spec: InputSpec) -> NDArray[np.float32]:
    """Scores (N, classes) in float32 for raw samples (N, *shape)."""
    module.eval()
    if len(spec.shape) == 3:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    parts = []
    for start in range(0, len(inputs), EVAL_BATCH):
        # A copy: the store's files are mapped read-only, and torch warns of what cannot be written.
        raw = torch.from_numpy(np.array(inputs[start : start + EVAL_BATCH], order="C"))
        parts.append(module(normalise(raw, spec)).float().numpy())
    return np.concatenate(parts)
