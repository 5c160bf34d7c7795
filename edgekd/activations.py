"""What the layers of a network give, caught while it runs."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

import torch
from torch import Tensor, nn

from edgekd.errors import UsageError, nearest

LISTED = 40


class Activations:
    """Catches the outputs of some layers of a network at each of its forward passes.

    Attributes:
        seen: outputs (B, ...) of the last pass, by module path.
    """

    def __init__(self, module: nn.Module, paths: Iterable[str]) -> None:
        self.seen: dict[str, Tensor] = {}
        self._hooks = [module.get_submodule(path).register_forward_hook(self._keep(path)) for path in paths]

    def _keep(self, path: str):  # type: ignore[no-untyped-def]  # torch's own type of a hook
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            self.seen[path] = output

        return keep

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
    found = {path: caught.seen.get(path) for path in paths}
    return {path: tuple(x.shape[1:]) for path, x in found.items() if isinstance(x, Tensor)}


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
