"""BERT-type encoders of token ids (Devlin et al. 2019, arXiv 1810.04805), read from a folder or drawn anew.

The mask is made of the ids inside the network, so a file takes one input: id 0 is padding. A student may
take some of a teacher's layers (DistilBERT: Sanh et al. 2019, arXiv 1910.01108) and few of its words.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgekd.errors import UsageError
from edgekd.tokens import PADDING, vocabulary_sha256
from edgekd.types import VECTOR, Task

# Added to a padded place's scores before the softmax: e^-30 is nothing, and 8 bits still tell the rest apart.
_MASKED = -30.0
_PIECE = 4096
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
)
# Our names of a layer's parts, and BERT's.
_NAMES = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "norm2": "output.LayerNorm",
}


class Attention(nn.Module):
    """Self-attention over (B, L, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.scale_queries()

    @torch.no_grad()
    def scale_queries(self) -> None:
        """Puts the scores' factor, one over the root of a head's width, into the query's weights."""
        for parameter in self.query.parameters():
            parameter.mul_(self.head_width**-0.5)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """`bias` (B, 1, 1, L) is added to the scores of each place that is looked at."""
        query, key, value = (self._split(of(x)) for of in (self.query, self.key, self.value))
        seen = torch.softmax(query @ key.transpose(2, 3) + bias, dim=-1) @ value
        return self.out(seen.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        """(B, L, heads * h) to (B, heads, L, h), of as many heads as are left."""
        batch, length, _ = x.shape
        return x.reshape(batch, length, -1, self.head_width).transpose(1, 2)


class Layer(nn.Module):
    """Attention and two linear layers, each with a sum and a norm behind it: (B, L, width)."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.activation = nn.GELU()
        self.norm2 = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """One layer."""
        x = self.norm1(x + self.attention(x, bias))
        return self.norm2(x + self.fc2(self.activation(self.fc1(x))))  # type: ignore[no-any-return]


class TextEncoder(nn.Module):
    """Ids (B, L) to outputs (B, outputs): mean over the words, then a linear head."""

    rows: Tensor

    def __init__(
        self,
        length: int,
        num_outputs: int,
        rows: NDArray[np.int32],
        width: int,
        heads: int,
        inner: int,
        num_layers: int,
    ) -> None:
        super().__init__()
        # Which row of the table an id has: ids that are left out share another's.
        self.register_buffer("rows", torch.from_numpy(rows))
        self.words = nn.Embedding(int(rows.max()) + 1, width)
        self.places = nn.Parameter(torch.empty(length, width))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(Layer(width, heads, inner) for _ in range(num_layers))
        self.head = nn.Linear(width, num_outputs)
        for parameter in (self.words.weight, self.places):
            nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the head."""
        there = (ids != PADDING).float()
        bias = ((1 - there) * _MASKED)[:, None, None, :]
        x = self.norm(self.words(self.rows[ids.long()].long()) + self.places)
        for layer in self.layers:
            x = layer(x, bias)
        weights = there / there.sum(1, keepdim=True).clamp_min(1)
        return self.head((weights[:, None, :] @ x).flatten(1))  # type: ignore[no-any-return]


def build(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    task: Task | None = None,
    folder: str | None = None,
    layers: Sequence[int] | None = None,
    min_count: int | None = None,
    others: Literal["nearest", "unknown"] | None = None,
    width: int = 128,
    heads: int = 4,
    inner: int = 512,
    num_layers: int = 2,
) -> nn.Module:
    """An encoder for a task of texts.

    Args:
        input_shape: (L,), ids a text.
        num_classes: outputs.
        task: whose ids these are.
        folder: of a BERT-type encoder (config.json, model.safetensors): gives weights and all widths.
        layers: which of the folder's layers, by number from 0, in order; all if left out.
        min_count: keeps the words that stand so often in `train`; all are kept if left out.
        others: what a word that was left out is read as: "nearest", the kept word whose vector in the folder
            points most nearly the same way (with a folder, if left out), or "unknown".
        width: without a folder: of a word's vector and between layers.
        heads: without a folder, of each layer.
        inner: without a folder: of the layer between the two linear ones.
        num_layers: without a folder.

    Raises:
        UsageError: the task's samples are no ids, the folder holds no such encoder, or its words are others
            than the task's tokenizer has.
    """
    if task is None or not task.input_spec.of_ids:
        raise UsageError("model 'text_encoder' takes token ids, the task's samples are none")
    size, length = int(task.input_spec.raw_range[1]) + 1, input_shape[0]
    if others not in (None, "nearest", "unknown"):
        raise UsageError(f"model 'text_encoder': others = {others!r}", hint="nearest or unknown")
    kept, unknown = _kept(task, size, min_count), task.notes["vocabulary"]["unknown_id"]
    if folder is None:
        if layers is not None or others == "nearest":
            raise UsageError(
                "model 'text_encoder': layers and nearest words are a folder's",
                hint="give folder, or neither",
            )
        rows = _rows_of(kept, size, unknown, None)
        if heads < 1 or width % heads:
            raise UsageError(f"model 'text_encoder': width = {width} is no multiple of heads = {heads}")
        net = TextEncoder(length, num_classes, rows, width, heads, inner, num_layers)
        if task.vector:
            _keep_angles(net, task.parts[VECTOR])
        return net
    config, weights = _read(Path(folder))
    words = weights["embeddings.word_embeddings.weight"]
    if len(words) != size:
        raise UsageError(
            f"{folder}: has vectors of {len(words)} words, the task's tokenizer has {size}",
            hint="task.tokenizer must be the one that the encoder was trained with",
        )
    _check_words(Path(folder), task)
    if length > config["max_position_embeddings"]:
        raise UsageError(
            f"{folder}: takes {config['max_position_embeddings']} ids at most, task.max_length = {length}"
        )
    taken = range(config["num_hidden_layers"]) if layers is None else layers
    if wrong := [n for n in taken if not 0 <= n < config["num_hidden_layers"]]:
        raise UsageError(
            f"model 'text_encoder': layers names {wrong[0]}, {folder} has {config['num_hidden_layers']}",
            hint="numbers from 0",
        )
    rows = _rows_of(kept, size, unknown, None if others == "unknown" else words.numpy())
    net = TextEncoder(
        length,
        num_classes,
        rows,
        config["hidden_size"],
        config["num_attention_heads"],
        config["intermediate_size"],
        len(taken),
    )
    _fill(net, weights, taken, kept)
    if task.vector:
        _keep_angles(net, task.parts[VECTOR])
    return net


def _kept(task: Task, size: int, min_count: int | None) -> NDArray[np.int64]:
    """The ids that have a row of their own, in order: what stands in train often enough.

    And padding and the unknown word, however often.
    """
    if min_count is None:
        return np.arange(size)
    counts = np.bincount(np.asarray(task.splits["train"].inputs).reshape(-1), minlength=size)
    unknown = task.notes["vocabulary"]["unknown_id"]
    always = np.isin(np.arange(size), [PADDING] if unknown is None else [PADDING, unknown])
    return np.flatnonzero((counts >= max(min_count, 1)) | always)


def _rows_of(
    kept: NDArray[np.int64], size: int, unknown: int | None, vectors: NDArray[np.float32] | None
) -> NDArray[np.int32]:
    """Id -> row (size,). Ids that are not kept share the row of the nearest word, or of the unknown one.

    Args:
        kept: ids with a row of their own, in order.
        size: ids that there are.
        unknown: the id of the unknown word.
        vectors: (size, width), by whose angles words are near; None: all others are unknown.
    """
    rows = np.full(size, -1, np.int32)
    rows[kept] = np.arange(len(kept))
    left = np.flatnonzero(rows < 0)
    if not len(left):
        return rows
    if vectors is None:
        if unknown is None:
            raise UsageError(
                "model 'text_encoder': min_count leaves words out, and the tokenizer has no unknown word",
                hint='others = "nearest", with folder',
            )
        rows[left] = rows[unknown]
        return rows
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    words = np.flatnonzero(kept != PADDING)
    for start in range(0, len(left), _PIECE):
        piece = left[start : start + _PIECE]
        rows[piece] = words[(unit[piece] @ unit[kept[words]].T).argmax(axis=1)]
    return rows


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a folder says of its encoder, and its weights by BERT's names."""
    try:
        config = json.loads((folder / "config.json").read_text())
        numbers = {key: int(config[key]) for key in _SIZES}
        weights = load_file(folder / "model.safetensors")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise UsageError(
            f"{folder}: no encoder can be read from it: {type(error).__name__}: {error}",
            hint="a folder with config.json and model.safetensors, as save_pretrained writes it",
        ) from error
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise UsageError(
            f"{folder}/config.json: model_type = {config.get('model_type')!r}, hidden_act = "
            f"{config.get('hidden_act')!r}: an encoder of type bert with gelu is needed"
        )
    # Classifiers have their encoder under a name.
    return numbers, {key.removeprefix("bert."): value.float() for key, value in weights.items()}


def _check_words(folder: Path, task: Task) -> None:
    """A folder that has words of its own must have the tokenizer's."""
    if not (folder / "vocab.txt").is_file():
        return
    words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    found = vocabulary_sha256({word: number for number, word in enumerate(words)})
    if found != task.notes["vocabulary"]["sha256"]:
        raise UsageError(
            f"{folder}/vocab.txt: other words, or in another order, than task.tokenizer has",
            hint="task.tokenizer must be the one that the encoder was trained with",
        )


@torch.no_grad()
def _keep_angles(net: TextEncoder, vector: slice) -> None:
    """Draws what leads to the vector so that texts keep the angles of their means, as far as it is wide."""
    weight = net.head.weight[vector]
    net.head.weight[vector] = nn.init.orthogonal_(torch.empty_like(weight))
    net.head.bias[vector] = 0.0


def _fill(
    net: TextEncoder, weights: dict[str, Tensor], layers: Sequence[int], kept: NDArray[np.int64]
) -> None:
    """Copies an encoder's weights; its head keeps what was drawn."""
    of = {
        "words.weight": weights["embeddings.word_embeddings.weight"][torch.from_numpy(kept)],
        # Every word is of the first of BERT's two segments.
        "places": weights["embeddings.position_embeddings.weight"][: len(net.places)]
        + weights["embeddings.token_type_embeddings.weight"][0],
    }
    named = {"norm": "embeddings.LayerNorm"}
    for i, number in enumerate(layers):
        named |= {f"layers.{i}.{ours}": f"encoder.layer.{number}.{bert}" for ours, bert in _NAMES.items()}
    for ours, bert in named.items():
        of |= {f"{ours}.{part}": weights[f"{bert}.{part}"] for part in ("weight", "bias")}
    own = net.state_dict()
    net.load_state_dict({**own, **of})
    for layer in net.layers:
        layer.attention.scale_queries()  # type: ignore[union-attr,operator]
