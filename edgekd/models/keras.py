"""Networks from Keras files, on Keras' torch backend: no TensorFlow is needed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgekd.errors import UsageError
from edgekd.layouts import layout_for
from edgekd.models.keras_native import rebuild


class KerasNet(nn.Module):
    """A Keras model on inputs (B, *shape); images are handed over as (H, W, C) where it wants them so."""

    def __init__(self, body: nn.Module, turned: bool) -> None:
        super().__init__()
        self.body = body
        self.turned = turned

    def forward(self, x: Tensor) -> Tensor:
        """Turn, then the model."""
        out: Tensor = self.body(x.permute(0, 2, 3, 1) if self.turned else x, training=self.training)
        return out


def build(input_shape: tuple[int, ...], num_classes: int, file: str, native: bool = False) -> nn.Module:
    """The network of a .keras file, with its weights.

    Code in the file is not run: layers of one's own and Lambda layers are refused by Keras.

    Args:
        input_shape: of a sample, (C, H, W) or (F,).
        num_classes: of the task; whether the network has as many outputs is checked by who trains it.
        file: its path.
        native: rebuild it from layers of torch, which can be pruned; Keras' own cannot.

    Raises:
        UsageError: Keras is missing or on another backend, the file does not load or fit, or a layer has no
            native form.
        ParityError: the native network does not compute what Keras computes.
    """
    if not file.endswith(".keras"):
        raise UsageError(f"{file}: not a .keras file", hint="save it as one: model.save('teacher.keras')")
    keras = _keras()
    try:
        body = keras.models.load_model(Path(file), compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever it stumbled on
        said = " ".join(str(error).split())[:300]
        raise UsageError(f"{file}: Keras cannot load it: {type(error).__name__}: {said}") from error
    if not isinstance(body.input_shape, tuple):
        raise UsageError(f"{file}: takes {len(body.input_shape)} inputs, a network here takes one")
    layout = layout_for(tuple(body.input_shape[1:]), input_shape, file)
    if native:
        if len(input_shape) == 3 and layout != "NHWC":
            raise UsageError(
                f"{file}: takes images as {input_shape}; a native form is made of those that take (H, W, C)",
                hint="build the Keras model with data_format channels_last",
            )
        return rebuild(body, input_shape, file)
    return KerasNet(body, layout == "NHWC")


def _keras() -> Any:
    """Keras with torch behind it: the choice is made once a process, when it is imported."""
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "torch"
        # Else it puts what it loads on the first GPU; where a network runs is decided in training.
        os.environ.setdefault("KERAS_TORCH_DEVICE", "cpu")
    try:
        import keras
    except ImportError:
        raise UsageError("a .keras file needs Keras", hint="pip install 'edgekd[keras]'") from None
    if keras.backend.backend() != "torch":
        raise UsageError(
            f"Keras was imported on the backend {keras.backend.backend()!r} before",
            hint="set KERAS_BACKEND=torch before it is imported",
        )
    return keras
