"""Keras models rebuilt from torch's own layers, which can be pruned and quantized as Keras' cannot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekd.errors import ParityError, UsageError
from edgekd.models.keras_layers import ACTIVATIONS, LAYERS, Refused, Shape, Value, activation_of

SAMPLES = 32
# Float32 through some tens of layers leaves a millionth; a wrong padding or order leaves tenths.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class _Step:
    """A layer: its module (None: add up), and the values that it takes, by name."""

    name: str
    module: nn.Module | None
    takes: tuple[str, ...]


class NativeNet(nn.Module):
    """Layers of torch, named as in the Keras file: (B, *shape) -> logits (B, classes)."""

    def __init__(self, steps: Sequence[_Step], taken: str, given: str) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({s.name: s.module for s in steps if s.module is not None})
        self.route = [(s.name, s.takes) for s in steps]
        self.taken, self.given = taken, given

    def forward(self, x: Tensor) -> Tensor:
        """Layer by layer, in the file's order."""
        values = {self.taken: x}
        for name, takes in self.route:
            first, *others = (values[other] for other in takes)
            if name in self.layers:
                values[name] = self.layers[name](first)
            else:
                for other in others:
                    first = first + other
                values[name] = first
        return values[self.given]


def rebuild(body: Any, shape: Shape, file: str) -> nn.Module:
    """The same network from layers of torch.nn with the file's weights, all of which learn.

    An activation softmax or sigmoid at its end is left out: what is given are logits. Regularizers and
    constraints, which say how Keras trains, are not taken over.

    Args:
        body: the Keras model, with one input and one output.
        shape: of a sample, (C, H, W) or (F,).
        file: its name, for errors.

    Raises:
        UsageError: a layer has no native form.
        ParityError: the rebuilt network does not compute what Keras computes.
    """
    build = _Build(file, body)
    taken = Value((*shape[1:], shape[0]) if len(shape) == 3 else shape)
    net = NativeNet(*build.steps(taken)).eval()
    _check(net, body, build.ending, shape, file)
    return net


class _Build:
    """Walks over a model's layers; knows what flows into each."""

    def __init__(self, file: str, body: Any) -> None:
        self.file = file
        self.wired = _wired(body, self.refused)
        self.values: dict[str, Value] = {}
        self.names: set[str] = set()
        self.taken = nn.ModuleDict()  # whose own attributes no module in it may be named after
        self.made: list[_Step] = []
        self.ending: str | None = None

    def refused(self, layer: Any, why: str) -> UsageError:
        known = ", ".join(sorted((*LAYERS, "Activation", "Add", "Softmax")))
        return UsageError(
            f"{self.file}: layer {layer.name!r} ({type(layer).__name__}) has no native form: {why}",
            hint=f"known are {known}, in their usual forms; write the network as a torch module, or save it "
            "as ONNX and give student.onnx",
        )

    def steps(self, taken: Value) -> tuple[list[_Step], str, str]:
        """(steps, name of what comes in, name of what goes out)."""
        source = self._free("input")
        self.values[source] = taken
        named: dict[int, str] = {}
        for layer, sources in self.wired:
            takes = tuple(named[id(s)] for s in sources) or (source,)
            if type(layer).__name__ == "InputLayer":
                named[id(layer)] = source
                continue
            named[id(layer)] = self._one(layer, takes, last=layer is self.wired[-1][0])
        given = named[id(self.wired[-1][0])]
        value = self.values[given]
        if value.order is not None or len(value.shape) != 1:
            raise self.refused(self.wired[-1][0], "it stands last; a Dense layer must come after it")
        return self.made, source, given

    def _one(self, layer: Any, takes: tuple[str, ...], last: bool) -> str:
        """Adds a layer with its activation; returns the name of what it gives."""
        kind = type(layer).__name__
        if not type(layer).__module__.startswith("keras."):
            raise self.refused(layer, "it is a layer of your own")
        if kind in ("Activation", "Softmax"):
            return self._activated(layer, takes[0], last)
        if kind == "Add":
            return self._activated(layer, self._step(layer.name, None, takes, self._sum(layer, takes)), last)
        if kind not in LAYERS:
            raise self.refused(layer, "its kind is not known")
        module, found = LAYERS[kind](layer, self.values[takes[0]], self.refused)
        return self._activated(layer, self._step(layer.name, module, takes, found), last)

    def _step(self, name: str, module: nn.Module | None, takes: tuple[str, ...], found: Value) -> str:
        own = self._free(name)
        self.made.append(_Step(own, module, takes))
        self.values[own] = found
        return own

    def _free(self, name: str) -> str:
        """A name in Keras as one of a torch module, which no other step has."""
        name = re.sub(r"\W", "_", name)
        while name in self.names or hasattr(self.taken, name):
            name += "_"
        self.names.add(name)
        return name

    def _sum(self, layer: Any, takes: tuple[str, ...]) -> Value:
        values = [self.values[name] for name in takes]
        if any(v.order is not None or v.shape != values[0].shape for v in values):
            raise self.refused(layer, "it adds values of different shapes, or that were flattened")
        return values[0]

    def _activated(self, layer: Any, name: str, last: bool) -> str:
        """The name of the value behind a layer's activation."""
        function = "softmax" if type(layer).__name__ == "Softmax" else activation_of(layer)
        if function == "linear":
            return name
        if function in ("softmax", "sigmoid") and last:
            self.ending = function
            return name
        if function not in ACTIVATIONS:
            raise self.refused(layer, f"activation {function!r}{' before the end' * (function == 'softmax')}")
        return self._step(f"{name}_{function}", ACTIVATIONS[function](), (name,), self.values[name])


def _wired(body: Any, refused: Refused) -> list[tuple[Any, list[Any]]]:
    """(layer, the layers whose values it takes) of a model, in an order in which they can be computed."""
    import keras

    if isinstance(body, keras.Sequential):
        layers = list(body.layers)
        found = [(layer, layers[max(i - 1, 0) : i]) for i, layer in enumerate(layers)]
    elif type(body).__name__ == "Functional":
        found = []
        for layer in body.operations:
            calls = layer._inbound_nodes
            if len(calls) != 1:
                raise refused(layer, f"it is called {len(calls)} times")
            found.append((layer, [t._keras_history.operation for t in calls[0].arguments.keras_tensors]))
        # What goes out stands last, so that the end is known.
        if len(body.outputs) != 1:
            raise refused(body, f"it gives {len(body.outputs)} outputs, not one")
        last = body.outputs[0]._keras_history.operation
        found = [pair for pair in found if pair[0] is not last] + [p for p in found if p[0] is last]
    else:
        raise refused(body, "it is neither a Sequential nor a functional model")
    if all(type(layer).__name__ == "InputLayer" for layer, _ in found):
        raise refused(body, "it has no layers")
    for layer, _ in found:
        if isinstance(layer, keras.Model):
            raise refused(layer, "it is a model inside of the model")
    return found


def _check(net: nn.Module, body: Any, ending: str | None, shape: Shape, file: str) -> None:
    """Nothing where both give the same for random samples."""
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(SAMPLES, *shape)).astype(np.float32))
    with torch.no_grad():
        here = net(x)
        theirs = body(x.permute(0, 2, 3, 1) if len(shape) == 3 else x, training=False)
    if ending is not None:
        # Of their logarithms: probabilities near 0 and 1 hide what is wrong before them.
        here = (here.log_softmax(dim=-1) if ending == "softmax" else nn.functional.logsigmoid(here)).clamp(
            -60
        )
        theirs = theirs.log().clamp(-60)
    off = float((here - theirs).abs().max()) if here.shape == theirs.shape else float("inf")
    largest = float(theirs.abs().max())
    if not off <= TOLERANCE * largest:
        raise ParityError(
            f"{file}: rebuilt natively it gives other outputs: {tuple(here.shape)} for "
            f"{tuple(theirs.shape)}, off by {off:.3g} on {SAMPLES} random samples, where the largest is "
            f"{largest:.3g}",
            hint="write the network as a torch module",
        )
