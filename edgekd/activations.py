"""What the layers of a network give, caught while it runs."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.errors import UsageError, nearest

LISTED = 40


class Activations:
    """Catches the outputs of some layers of a network at each of its forward passes."""

    def __init__(self, module: nn.Module, paths: Iterable[str]) -> None:
        self._seen: dict[str, tuple[Tensor, int]] = {}
        self._hooks = [module.get_submodule(path).register_forward_hook(self._keep(path)) for path in paths]

    def _keep(self, path: str):  # type: ignore[no-untyped-def]  # torch's own type of a hook
        def keep(_module: nn.Module, _inputs: object, output: Any) -> None:
            if isinstance(output, Tensor):
                self._seen[path] = output, output._version

        return keep

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes without the batch of what the layers gave at the last pass, by module path."""
        return {path: tuple(x.shape[1:]) for path, (x, _) in self._seen.items()}

    def last(self) -> dict[str, Tensor]:
        """Outputs (B, ...) of the last pass, by module path; layers that give no single tensor left out.

        Raises:
            UsageError: what a layer gave was written over by a later one.
        """
        for path, (x, version) in self._seen.items():
            if x._version != version:
                raise UsageError(
                    f"layer {path!r}: a later layer writes over its output (inplace=True)",
                    hint="name the later layer, or take inplace from it",
                )
        return {path: x for path, (x, _) in self._seen.items()}

    def __enter__(self) -> Activations:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes the hooks off."""
        for hook in self._hooks:
            hook.remove()


@torch.no_grad()
def shapes_of(module: nn.Module, example: Tensor) -> dict[str, tuple[int, ...]]:
    """Shape without the batch of what each layer gives for an input (1, *shape), by module path.

    Layers that give no single tensor are left out, as is the network itself.
    """
    module.eval()
    paths = [name for name, _ in module.named_modules() if name]
    with Activations(module, paths) as caught:
        module(example)
    found = caught.shapes()  # in the order of the passes, which a reader may not know: that of the network
    return {path: found[path] for path in paths if path in found}


def check_paths(role: str, paths: Iterable[str], known: dict[str, tuple[int, ...]]) -> None:
    """Refuses a path that is no layer, with those that are and their shapes.

    Raises:
        UsageError: naming role, path and what there is.
    """
    for path in paths:
        if path not in known:
            listed = ", ".join(f"{name} {shape}" for name, shape in list(known.items())[:LISTED])
            more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
            raise UsageError(
                f"{role}: there is no layer {path!r}; the layers are: {listed}{more}",
                hint=nearest(path, known, "name one of them"),
            )
