"""A network of torch as layers, and its latency by a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgekd.errors import UsageError
from edgekd.folding import CONVOLUTIONS
from edgekd.latency.costs import Costs
from edgekd.layers import KINDS, Kind, Layer

aten = torch.ops.aten

# They move or rename values, or fold into the layer before.
_FREE = {
    aten.alias.default,
    aten.clone.default,
    aten.detach.default,
    aten.dropout.default,
    aten.empty.memory_format,
    aten.expand.default,
    aten.permute.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.t.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten._to_copy.default,
}
_NORMS = {
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.cudnn_batch_norm.default,
}
_FOLDING = (*CONVOLUTIONS, nn.Linear, nn.modules.batchnorm._BatchNorm)
_WITH_BOUNDS = {aten.hardtanh.default, aten.hardtanh_.default, aten.clamp.default}
_RELUS = {aten.relu.default, aten.relu_.default, *_WITH_BOUNDS}


def layers_of(module: nn.Module, example_input: Tensor) -> tuple[Layer, ...]:
    """The layers that a runtime runs for a network, in order.

    Found by watching one forward pass, so whatever Python the network holds does not matter.

    Args:
        module: a float network; left as it is.
        example_input: (1, *shape).

    Raises:
        UsageError: an operator, or a form of one, that tables do not know, with its name.
    """
    return tuple(_watched(module, example_input, ()).layers)


def spans_of(module: nn.Module, example_input: Tensor, paths: Sequence[str]) -> tuple[range, ...]:
    """Which of `layers_of` run within each of these modules, each of which runs once."""
    watch = _watched(module, example_input, paths)
    return tuple(range(*watch.bounds[path]) for path in paths)


def layers_at(module: nn.Module, example_input: Tensor, paths: Iterable[str]) -> dict[str, tuple[Layer, ...]]:
    """What runs within each of these modules, however often it is called; nothing where it is not.

    Raises:
        UsageError: as `layers_of`.
    """
    paths = tuple(paths)
    watch = _watched(module, example_input, paths)
    found = {}
    for path in paths:
        bounds = iter(watch.bounds.get(path, ()))
        found[path] = tuple(layer for begin in bounds for layer in watch.layers[begin : next(bounds)])
    return found


def _watched(module: nn.Module, example_input: Tensor, paths: Sequence[str]) -> _Watch:
    # As the network was written: with channels last, a pool is made of other operators.
    layout, training = torch.channels_last, module.training
    last = any(w.dim() == 4 and w.is_contiguous(memory_format=layout) for w in module.parameters())
    module.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub lacks it
    watch = _Watch()
    handles = [handle for path in paths for handle in watch.bound(path, module.get_submodule(path))]
    handles += [handle for layer in module.modules() for handle in watch.told(layer)]
    try:
        with torch.no_grad(), watch:
            module(example_input.contiguous())
        watch.fold()
    finally:
        for handle in handles:
            handle.remove()
        module.train(training)
        if last:
            module.to(memory_format=layout)  # type: ignore[call-overload]
    return watch


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Notes each operator as a layer."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[Layer] = []
        self.bounds: dict[str, list[int]] = {}  # how many layers had run when a module began and ended
        # What a ReLU can be folded into. The tensors are held, so that no other one takes their id.
        self._before_relu: dict[int, Tensor] = {}
        self._takers: dict[int, int] = {}  # of each layer's output: how many operators take it
        self._norms: list[tuple[int, Tensor, Tensor]] = []  # where each stands as a layer, input and output
        self._of: dict[int, nn.Module] = {}  # the module that gave an output
        self._calls: Counter[nn.Module] = Counter()

    def bound(self, path: str, module: nn.Module) -> list[Any]:
        """Hooks that note a module's layers in `bounds`."""

        def note(*_: Any) -> None:
            self.bounds.setdefault(path, []).append(len(self.layers))

        return [module.register_forward_pre_hook(note), module.register_forward_hook(note)]

    def told(self, module: nn.Module) -> list[Any]:
        """Hooks that note which layer gave what; torch's own alone, as `folding.fold_batch_norm` has it."""
        if not type(module).__module__.startswith("torch.nn"):
            return []

        def note(_: nn.Module, args: Any, output: Tensor) -> None:
            self._calls[module] += 1
            self._of[id(output)] = module

        return [module.register_forward_hook(note)] if isinstance(module, _FOLDING) else []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs the operator; what it is goes into `layers`."""
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(args):
            if id(x) in self._takers:
                self._takers[id(x)] += 1
        note = _NOTES.get(func)
        if note is not None:
            self.layers.append(note(func, args, result))
            self._before_relu[id(result)] = result  # not a pool's, which gives two: no runtime folds its ReLU
            if self.layers[-1].weights:
                self._takers[id(result)] = 0
        elif func in _NORMS:
            self._norms.append((len(self.layers), args[0], result[0]))
            self.layers.append(_norm(func, args, result[0]))
            self._before_relu[id(result[0])] = result[0]
        elif func in _RELUS:
            if id(args[0]) not in self._before_relu:
                raise _unknown(func, "apart from a convolution, a linear layer or a sum before it")
            low = args[1] if len(args) > 1 else -1  # hardtanh's own
            if func in _WITH_BOUNDS and low != 0:
                raise _unknown(func, f"from {low}")
        elif func in _FREE:
            first = result[0] if isinstance(result, tuple) else result
            if id(args[0]) in self._before_relu and isinstance(first, Tensor):
                self._before_relu[id(first)] = first
        else:
            raise _unknown(func)
        return result

    def fold(self) -> None:
        """Takes out the norms that fold into a layer: those that alone take its output.

        Raises:
            UsageError: another one, not of an image, has no kernel.
        """
        alone = {i for i, x, out in self._norms if self._folds(x, out)}
        if rest := [x for i, x, _ in self._norms if i not in alone and x.dim() != 4]:
            raise _unknown(
                aten.native_batch_norm.default, f"of {tuple(rest[0].shape)}, apart from a layer before it"
            )
        self.layers = [layer for i, layer in enumerate(self.layers) if i not in alone]
        for bounds in self.bounds.values():
            bounds[:] = [bound - sum(i < bound for i in alone) for bound in bounds]

    def _folds(self, x: Tensor, out: Tensor) -> bool:
        """Whether a norm folds into the layer before it: each runs once, and nothing else takes its input."""
        layer, norm = self._of.get(id(x)), self._of.get(id(out))
        once = layer is not None and norm is not None and self._calls[layer] == self._calls[norm] == 1
        return once and self._takers.get(id(x)) == 1


def _unknown(func: Any, form: str = "") -> UsageError:
    return UsageError(
        f"operator {func} {form}".rstrip() + " is not in latency tables",
        hint=f"they know: {', '.join(KINDS)}, and ReLU behind them",
    )


def _convolution(func: Any, args: Sequence[Any], result: Tensor) -> Layer:
    x, weight, _, stride, padding, dilation, transposed, _, groups = args
    inner, outer = int(x.shape[1]), int(result.shape[1])
    same = len({*weight.shape[2:]}) == len({*stride}) == len({*padding}) == 1
    known = groups == 1 or (groups == inner == outer)
    if x.dim() != 4 or not same or transposed or {*dilation} != {1} or not known:
        raise _unknown(func, f"with kernel {tuple(weight.shape[2:])}, dilation {dilation}, groups {groups}")
    kind: Kind = "conv" if groups == 1 else "depthwise"
    height, width = (int(s) for s in x.shape[2:])
    return Layer(kind, height, width, inner, outer, int(weight.shape[2]), int(stride[0]), int(padding[0]))


def _norm(func: Any, args: Sequence[Any], result: Tensor) -> Layer:
    """What a norm is that folds into nothing: see `folding.for_integers`."""
    channels = int(result.shape[1])
    height, width = (int(s) for s in result.shape[2:]) if result.dim() == 4 else (1, 1)
    return Layer("depthwise", height, width, channels, channels, 1, 1, 0)


def _linear(func: Any, args: Sequence[Any], result: Tensor) -> Layer:
    x = args[1] if func is aten.addmm.default else args[0]
    if x.shape[0] != 1:
        raise _unknown(func, f"on {x.shape[0]} rows of one sample")
    return Layer("linear", 1, 1, int(x.shape[1]), int(result.shape[1]))


def _sum(func: Any, args: Sequence[Any], result: Tensor) -> Layer:
    x, y = args[:2]
    if not isinstance(y, Tensor) or x.shape != y.shape or x.dim() != 4:
        raise _unknown(func, "other than of two images of one shape")
    _, channels, height, width = (int(s) for s in x.shape)
    return Layer("add", height, width, channels, channels)


def _max_pool(func: Any, args: Sequence[Any], result: Any) -> Layer:
    x, *given = args
    given += [[], 0, 1, False][len(given) - 1 :]
    kernel, stride, padding, dilation = (
        (v,) if isinstance(v, int) else tuple(v) for v in (given[0], given[1] or given[0], *given[2:4])
    )
    ceil = given[4]
    same = all(len({*sides}) == 1 for sides in (kernel, stride, padding))
    rest = f"dilation {dilation}, ceil_mode {ceil}"
    if x.dim() != 4 or not same or {*dilation} != {1} or ceil:
        raise _unknown(func, f"with kernel {kernel}, stride {stride}, padding {padding}, {rest}")
    _, channels, height, width = (int(s) for s in x.shape)
    return Layer("max_pool", height, width, channels, channels, kernel[0], stride[0], padding[0])


def _global_pool(func: Any, args: Sequence[Any], result: Tensor) -> Layer:
    x = args[0]
    pooled = (*result.shape, 1, 1)[:4] == (*x.shape[:2], 1, 1)
    # A mean may be over other dimensions than the image's and leave as many values.
    if func is aten.mean.dim:
        pooled = pooled and {d % 4 for d in args[1]} == {2, 3}
    if x.dim() != 4 or not pooled:
        raise _unknown(func, "other than the mean over a whole image")
    _, channels, height, width = (int(s) for s in x.shape)
    return Layer("global_pool", height, width, channels, channels)


_NOTES: dict[Any, Callable[[Any, Sequence[Any], Tensor], Layer]] = {
    aten.convolution.default: _convolution,
    aten.addmm.default: _linear,
    aten.mm.default: _linear,
    aten.linear.default: _linear,
    aten.add.Tensor: _sum,
    aten.add_.Tensor: _sum,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.mean.dim: _global_pool,
    aten._adaptive_avg_pool2d.default: _global_pool,
    aten.adaptive_avg_pool2d.default: _global_pool,
    aten.avg_pool2d.default: _global_pool,
}


@dataclass(frozen=True)
class Prediction:
    """What a network will take, by the table.

    Attributes:
        ratio: in units of the table's reference.
        parts: each layer with its own share of that, in order.
        outside: layers beyond the widths that were timed.
    """

    ratio: float
    parts: tuple[tuple[Layer, float], ...]
    outside: tuple[Layer, ...]


def predict(layers: Iterable[Layer], costs: Costs) -> Prediction:
    """The time of a network as the sum over its layers and what calling it costs.

    Raises:
        MeasurementError: the table does not know a layer.
    """
    layers = tuple(layers)
    if not layers:
        raise UsageError("a network without any layer that latency tables know")
    found = [(layer, costs.of(layer)) for layer in layers]
    overhead = costs.overhead.of(layers[0].in_elements, layers[-1].out_elements)
    return Prediction(
        ratio=overhead + sum(cost.value for _, cost in found),
        parts=tuple((layer, cost.value) for layer, cost in found),
        outside=tuple(layer for layer, cost in found if cost.outside),
    )
