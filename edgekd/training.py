"""The one training loop: teachers, distillation, pruning recovery and QAT all call `fit`.

Everything random is a function of (seed, epoch), so a run that was killed and goes on
from its last checkpoint ends with the weights of an undisturbed run. Where processes were started
together (torchrun), each takes its share of every step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from edgekd import checkpoints, processes
from edgekd.activations import Activations
from edgekd.adversarial import attack, wrong_about
from edgekd.averages import averaged
from edgekd.batches import Step, TrainingSet, normalise, steps, steps_of
from edgekd.config import TrainConfig
from edgekd.errors import TrainingError
from edgekd.losses.common import Batch
from edgekd.memory_format import lay_out
from edgekd.objective import Objective
from edgekd.optimizers import learning_rate, make_optimizer
from edgekd.precision import make_fabric
from edgekd.progress import Display
from edgekd.store import write_atomic
from edgekd.types import InputSpec
from edgekd.watching import Watched

EVAL_BATCH = 256
MAX_HALVINGS = 3

# Told the name of a stage and its epochs so far, after each.
Watch = Callable[[str, Sequence[dict[str, float]]], None]


def fit(
    module: nn.Module,
    data: TrainingSet,
    objective: Objective,
    config: TrainConfig,
    *,
    what: str,
    display: Display,
    checkpoint: Path,
    watch: Watch = lambda what, history: None,
    after_step: Callable[[], None] = lambda: None,
    watched: Watched | None = None,
) -> list[dict[str, float]]:
    """Trains `module` in place; returns one record an epoch: total loss, each loss by name, learning rate,
    weights that change.

    With `config.patience` also the accuracy on val, or what is `watched`; the weights are the best epoch's.

    Args:
        module: the network; its parameters change.
        data: training samples, with what the teacher says where the objective wants it.
        objective: what is minimised; trained along where it learns something itself.
        config: epochs, optimizer, schedule, augmentation.
        what: name of the stage, for the display and errors.
        display: where progress is shown.
        checkpoint: folder that keeps the state after each epoch.
        watch: told after each epoch.
        after_step: mends the weights after each step.
        watched: what `config.patience` goes by; None: accuracy.

    Raises:
        TrainingError: the loss is NaN or infinite; names epoch and step.
    """
    training = _Training(module, data, objective, config, what, checkpoint, after_step, watched)
    left = (config.epochs - len(training.progress.history)) * training.steps
    ticks = iter(display.track(range(left), what, left))
    with training.layers_caught():
        while not training.is_over():
            try:
                training.epoch(ticks)
            except _Diverged as error:
                training.step_back(error)
            else:
                watch(what, training.progress.history)
    next(ticks, None)  # lets the display finish
    training.finish()
    return training.progress.history


class _Diverged(Exception):
    """The loss is no number any more."""

    def __init__(self, loss: float, step: int) -> None:
        super().__init__()
        self.loss, self.step = loss, step


class _Training:
    """The state of one `fit`."""

    def __init__(
        self,
        module: nn.Module,
        data: TrainingSet,
        objective: Objective,
        config: TrainConfig,
        what: str,
        checkpoint: Path,
        after_step: Callable[[], None],
        watched: Watched | None,
    ) -> None:
        self.after_step, self.watched = after_step, watched
        self.module, self.data, self.objective, self.config = module, data, objective, config
        self.what, self.checkpoint = what, checkpoint
        self.fabric = make_fabric(config.precision, unused=bool(data.student_layers))
        self.layout = lay_out(module, data.spec.shape, training=True)
        optimizer = make_optimizer(module, config, what, objective)
        self.average = None
        both = {"model": module, "objective": objective}
        if config.ema_decay is not None:
            both["average"] = self.average = averaged(module, config.ema_decay)
        self.both = nn.ModuleDict(both)
        self.both.to(self.fabric.device)
        # Not Fabric's own wrapper: of mixed precision it lets nobody take gradients but itself.
        self.forward = self.fabric.strategy.setup_module(module)
        self.optimizer: Any = self.fabric.setup_optimizers(optimizer)
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.clipped = [*self.parameters, *objective.parameters()]
        self.steps = steps_of(data.split, config, self.fabric.world_size)
        # After the move: what an optimizer remembers has to lie where the weights are.
        self.progress = checkpoints.load(checkpoint, self.both, self.optimizer)
        if not self.progress.history and config.on_nan == "halve_lr":
            self._save()
        self._layers: Activations
        self._teacher: _Live | None

    def layers_caught(self) -> ExitStack:
        """While it is open, what losses look at in student and teacher is caught."""
        stack = ExitStack()
        self._layers = stack.enter_context(Activations(self.module, self.data.student_layers))
        self._teacher = _Live(self.data, self.fabric, stack) if self.data.live is not None else None
        return stack

    def is_over(self) -> bool:
        """Whether all epochs are done, or none has been better for long enough."""
        done, patience = len(self.progress.history), self.config.patience
        waited = patience is not None and done - self.progress.best_epoch >= patience
        return done >= self.config.epochs or (done > 0 and waited)

    def epoch(self, ticks: Iterator[int]) -> None:
        """Trains one epoch, and keeps the state after it.

        Raises:
            _Diverged: the loss is NaN or infinite.
        """
        epoch, config = len(self.progress.history), self.config
        # Of its own for each process: dropout must not be the same in all.
        drawn_for = self.data.epochs_before + epoch
        torch.manual_seed(int(self.data.draw(drawn_for).integers(2**62)) + self.fabric.global_rank)
        self.module.train()
        total, parts = 0.0, dict.fromkeys(self.objective.names, 0.0)
        drawn = steps(self.data, config, epoch, self.fabric.global_rank, self.fabric.world_size)
        for i, step in enumerate(drawn):
            done = epoch * self.steps + i
            rate = learning_rate(config, done, self.steps) * self.progress.rate_scale
            value = self._step(step, rate, done / (config.epochs * self.steps))
            if not np.isfinite(value):
                raise _Diverged(value, i)
            total += value
            for name, part in self.objective.last.items():
                parts[name] += part / self.steps
            next(ticks, None)
        record = {"epoch": epoch + 1, "loss": total / self.steps, "lr": rate, **parts}
        record |= self.objective.weights()
        # Weights, and no NaN in what else is kept: a mask of minus infinity is one.
        broken = any(not bool(p.isfinite().all()) for p in self.both.parameters())
        broken = broken or any(bool(b.isnan().any()) for b in self.both.buffers())
        if not self._in_all(not broken):
            raise _Diverged(float("nan"), self.steps - 1)  # by the last step, which no loss has shown
        if self.fabric.world_size > 1:
            mean = self.fabric.all_reduce(torch.tensor([total / self.steps, *parts.values()]))
            record |= dict(zip(["loss", *parts], mean.tolist(), strict=True))  # type: ignore[union-attr]
        if config.patience is not None:
            name = "accuracy" if self.watched is None else self.watched.metric.name
            record[f"val_{name}"] = self._watched(epoch + 1)
        self.progress.history.append(record)
        self._save()

    def _step(self, step: Step, rate: float, progress: float) -> float:
        """One step down; the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        moved = {k: self.fabric.to_device(v) for k, v in vars(step).items() if v is not None}
        step = replace(step, **moved)
        # Filled in below: what the student says and, where it runs along, the teacher.
        batch = Batch(
            step.inputs,
            step.teacher,
            step.labels,
            step.picked,
            progress=progress,
            other_labels=step.other_labels,
            shares=step.shares,
            head_labels=step.head_labels,
            other_head_labels=step.other_head_labels,
        )
        if self._teacher is not None:
            other = step.teacher_inputs
            batch = self._teacher.looks_at(step.inputs if other is None else other, batch)
        value: Tensor = self.objective(self._answered(step.inputs, batch), self.parameters)
        found = value.item()
        if not self._in_all(bool(np.isfinite(found))):
            told = batch.teacher is None or bool(batch.teacher.isfinite().all())
            if not self._in_all(told):
                self._blame_the_teacher(batch)
            return found if not np.isfinite(found) else float("nan")
        self.optimizer.zero_grad()
        self.fabric.backward(value)
        for learned in self.objective.parameters():  # not wrapped: Fabric cannot cast a batch
            if learned.grad is not None:
                processes.average(learned.grad)
        if self.config.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.clipped, self.config.grad_clip)
        self.optimizer.step()
        self.after_step()
        if self.average is not None:
            self.average.update_parameters(self.module)
        return found

    def _blame_the_teacher(self, batch: Batch) -> None:
        """Of a loss that is no number, says that the teacher is the cause: a lower rate mends nothing.

        Raises:
            TrainingError: the teacher's outputs are not finite; names a sample.
        """
        hint = "look at that sample, and at the teacher's weights"
        if batch.teacher is None or bool(batch.teacher.isfinite().all()):
            raise TrainingError(f"{self.what}: the teacher gives no numbers in another process", hint=hint)
        row = int((~batch.teacher.isfinite()).any(dim=1).nonzero()[0])
        sample = str(self.data.split.ids[int(batch.index[row])])
        raise TrainingError(
            f"{self.what}: the teacher gives {batch.teacher[row].tolist()[:3]} ... for sample {sample!r}",
            hint=hint,
        )

    def _in_all(self, fine: bool) -> bool:
        """Whether all processes say so: they stop together, or some would wait for the others for ever."""
        if self.fabric.world_size == 1:
            return fine
        return bool(self.fabric.all_reduce(torch.tensor(float(fine)), reduce_op="min"))

    def _answered(self, x: Tensor, batch: Batch) -> Batch:
        """The batch with what the student says: of the samples, or of attacked ones beside the clean."""
        config, n = self.config.adversarial, len(x)
        x = x.contiguous(memory_format=self.layout)
        if config is not None:
            attacked = attack(
                self.module, x, wrong_about(batch, self.data.num_classes), config, self.data.spec
            )
            x = torch.cat((x, attacked))  # in one pass: processes that train together expect one
        with self.fabric.autocast():
            outputs = self.forward(x)
        outputs = outputs.float()
        clean = None if config is None else outputs[:n]
        layers = {path: layer.float() for path, layer in self._layers.last().items()}
        if config is not None:
            layers = {path: layer[len(layer) // 2 :] for path, layer in layers.items()}
        return replace(batch, student=outputs[-n:], student_layers=layers, clean=clean)

    def _watched(self, epoch: int) -> float:
        """Accuracy on val, percent, or what else is watched; the weights are kept where none was better."""
        assert self.data.val is not None and self.data.val.labels is not None
        chosen = self.module if self.average is None else self.average.module
        scores = predict(chosen, self.data.val.inputs, self.data.spec, self.fabric.device)
        if self.watched is None:
            answers = scores[:, : self.data.num_classes].argmax(axis=1)
            found = float((answers == self.data.val.labels).mean() * 100)
        else:
            found = self.watched.of(scores[:, : self.data.num_judged])
        # Batch norms of several processes differ by a little: one decides for all.
        found = float(processes.tell(found))
        sign = 1 if self.watched is None else self.watched.sign
        if self.progress.best is None or sign * found > sign * self.progress.best:
            if self.fabric.is_global_zero:
                checkpoints.save_tensors(chosen.state_dict(), self.checkpoint / checkpoints.BEST)
            self.progress.best, self.progress.best_epoch = found, epoch
        return found

    def step_back(self, error: _Diverged) -> None:
        """To the last good epoch, with half the rate.

        Raises:
            TrainingError: the recipe does not want that, or it was done often enough.
        """
        halvings = round(-np.log2(self.progress.rate_scale))
        if self.config.on_nan == "stop" or halvings >= MAX_HALVINGS:
            again = f", with 1/{2**halvings} of the rate" if halvings else ""
            further = ", or on_nan = 'halve_lr'" if self.config.on_nan == "stop" else ""
            raise TrainingError(
                f"{self.what}: the loss is {error.loss} at epoch {len(self.progress.history) + 1}, "
                f"step {error.step + 1}{again}",
                hint=f"lower lr, set grad_clip{further}; look for NaN in the data",
            )
        halved = self.progress.rate_scale / 2
        self.progress = checkpoints.load(self.checkpoint, self.both, self.optimizer)
        self.progress.rate_scale = halved
        if self.fabric.is_global_zero:
            write_atomic(self.checkpoint / checkpoints.STATE, json.dumps(asdict(self.progress)))

    def _save(self) -> None:
        if self.fabric.is_global_zero:
            checkpoints.save(self.checkpoint, self.both, self.optimizer, self.progress)

    def finish(self) -> None:
        """Leaves in the module the weights that count, on the processor."""
        self.fabric.barrier()  # the first process may still write the best
        if self.progress.best is not None:
            self.module.load_state_dict(load_file(self.checkpoint / checkpoints.BEST))
        elif self.average is not None:
            self.module.load_state_dict(self.average.module.state_dict())
        self.fabric.barrier()  # the first process takes the checkpoints away: all have read them
        self.module.cpu().eval()  # from wherever Fabric had put it: all that follows runs on the processor


class _Live:
    """The teacher beside the student, on the same pixels, in the precision of the training."""

    def __init__(self, data: TrainingSet, fabric: Fabric, stack: ExitStack) -> None:
        assert data.live is not None
        shape = (data.spec if data.others is None else data.others[1]).shape
        self._layout = lay_out(data.live.eval(), shape)
        self._module = fabric.to_device(data.live)
        self._fabric = fabric
        self._layers = stack.enter_context(Activations(self._module, data.teacher_layers))

    @torch.no_grad()
    def looks_at(self, x: Tensor, batch: Batch) -> Batch:
        """The batch with the teacher's outputs and layers."""
        with self._fabric.autocast():
            outputs = self._module(x.contiguous(memory_format=self._layout))
        layers = {path: layer.float() for path, layer in self._layers.last().items()}
        return replace(batch, teacher=outputs.float(), teacher_layers=layers)


@torch.no_grad()
def predict(
    module: nn.Module, inputs: NDArray[Any], spec: InputSpec, device: torch.device | str = "cpu"
) -> NDArray[np.float32]:
    """Scores (N, classes) in float32 for raw samples (N, *shape); `device` is where the module lies."""
    layout, parts = lay_out(module.eval(), spec.shape), []
    for start in range(0, len(inputs), EVAL_BATCH):
        # A copy: the store's files are mapped read-only, and torch warns of what cannot be written.
        raw = torch.from_numpy(np.array(inputs[start : start + EVAL_BATCH], order="C"))
        x = normalise(raw, spec).to(device).contiguous(memory_format=layout)
        parts.append(module(x).float().cpu().numpy())
    return np.concatenate(parts)


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """All of a network's."""
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@torch.no_grad()
def reestimate(module: nn.Module, inputs: NDArray[Any], spec: InputSpec) -> int:
    """Takes the statistics of all batch norms anew, as the mean over raw samples (N, *shape); how many.

    In a drawn order: samples may lie sorted by class, and batches of one class each vary too little.
    For samples of another domain than those trained on: Li et al. 2016, arXiv 1603.04779.
    """
    norms = batch_norms(module)
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches, each alike
        norm.train()
    order = np.random.default_rng(0).permutation(len(inputs))
    for start in range(0, len(inputs) - len(inputs) % EVAL_BATCH or len(inputs), EVAL_BATCH):
        raw = torch.from_numpy(np.array(inputs[np.sort(order[start : start + EVAL_BATCH])], order="C"))
        module(normalise(raw, spec))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.eval()
    return len(norms)
