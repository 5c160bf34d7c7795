"""Networks from Hugging Face folders: a config.json with weights as safetensors beside it."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor, nn

from edgekd.errors import UsageError


class HuggingFaceNet(nn.Module):
    """A classifier of transformers on its main input (B, *shape): logits (B, classes)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """The classifier's logits."""
        out: Tensor = self.body(**{str(self.body.main_input_name): x}).logits
        return out


def build(input_shape: tuple[int, ...], num_classes: int, folder: str) -> nn.Module:
    """The network of a folder, with its weights; no code from the folder is run, nothing is fetched.

    Raises:
        UsageError: transformers is missing, or the folder holds no classifier that loads.
    """
    try:
        import transformers
    except ImportError:
        raise UsageError(
            "a Hugging Face folder needs transformers", hint="pip install 'edgekd[text]'"
        ) from None
    try:
        named = json.loads((Path(folder) / "config.json").read_text()).get("architectures") or []
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{folder}/config.json: cannot be read: {error}") from error
    known = [name for name in named if name.endswith("Classification") and hasattr(transformers, name)]
    if not known:
        raise UsageError(
            f"{folder}: config.json names {named or 'no architecture'}",
            hint="a classifier of transformers is needed, such as ViTForImageClassification",
        )
    try:
        body, info = getattr(transformers, known[0]).from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype="float32",
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises whatever it stumbled on
        said = " ".join(str(error).split())[:300]
        raise UsageError(f"{folder}: does not load: {type(error).__name__}: {said}") from error
    absent = [*info["missing_keys"], *info["mismatched_keys"]]
    if absent:
        raise UsageError(
            f"{folder}: has no weights for {absent[0]!r} ({len(absent)} such): they would be drawn at random",
            hint="save the whole classifier with save_pretrained",
        )
    return HuggingFaceNet(body)
