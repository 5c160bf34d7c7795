"""Residual blocks that a network can do without.

A block that adds its input to what it makes of it leaves a working network when it is taken out (Veit et
al. 2016, arXiv 1605.06431). Where a kernel takes the same time at every width, this is what the clock still
shows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class _Sums(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Holds what was added up."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.added: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Runs the operator."""
        if func in (aten.add.Tensor, aten.add_.Tensor):
            self.added += [value for value in args[:2] if isinstance(value, Tensor)]
        return func(*args, **(kwargs or {}))


def removable(net: nn.Module, example_input: Tensor) -> list[str]:
    """Paths of the innermost modules that add their input to what they make of it, in one shape.

    Args:
        net: in eval mode; left as it is.
        example_input: (1, *shape).
    """
    runs: dict[str, list[bool]] = {}

    def before(path: str, module: nn.Module, inputs: Any) -> None:
        starts[path] = len(sums.added)

    def after(path: str, module: nn.Module, inputs: Any, output: Any) -> None:
        one = len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
        runs.setdefault(path, []).append(
            one
            and inputs[0].shape == output.shape
            and any(_is(value, inputs[0]) for value in sums.added[starts[path] :])
        )

    starts: dict[str, int] = {}
    inside = [(path, module) for path, module in net.named_modules() if path]
    sums = _Sums()
    with _hooks(inside, before, after), torch.no_grad(), sums:
        net(example_input)
    # One that runs twice, with weights that are shared, is not taken out.
    found = [path for path, _ in inside if runs.get(path) == [True]]
    return [path for path in found if not any(within(other, path) for other in found)]


def within(path: str, block: str) -> bool:
    """Whether a module path lies inside a block."""
    return path.startswith(f"{block}.")


def _is(value: Tensor, other: Tensor) -> bool:
    """The same values in the same memory: a view, or what nn.Identity gives."""
    return value.data_ptr() == other.data_ptr() and value.shape == other.shape


@contextmanager
def _hooks(
    modules: Sequence[tuple[str, nn.Module]], before: Callable[..., None], after: Callable[..., None]
) -> Iterator[None]:
    handles = []
    for path, module in modules:
        handles.append(module.register_forward_pre_hook(functools.partial(before, path)))
        handles.append(module.register_forward_hook(functools.partial(after, path)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def without(net: nn.Module, path: str) -> Iterator[None]:
    """While it is open, a block is taken out, as `remove` does for good."""
    block = net.get_submodule(path)
    net.set_submodule(path, nn.Identity())
    try:
        yield
    finally:
        net.set_submodule(path, block)


def remove(net: nn.Module, paths: Sequence[str]) -> None:
    """Takes blocks out, in place; all other paths stay what they were."""
    for path in paths:
        net.set_submodule(path, nn.Identity())
