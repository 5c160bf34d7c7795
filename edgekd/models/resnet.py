"""Residual networks for small images (He et al. 2015, arXiv 1512.03385), at any width.

Section 4.2's networks of basic blocks, and the bottlenecks of figure 5 behind the same stem.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

Shortcut = Literal["conv", "pad"]
Kind = Literal["basic", "bottleneck"]
EXPANSION = 4  # a bottleneck's outputs by its own width


class Pad(nn.Module):
    """Shortcut without weights (option A): (B, in, H, W) -> (B, out, H / stride, W / stride).

    Every `stride`-th pixel, and channels of zeros on both sides, one more behind where they are odd.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.behind = out_channels - in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """The image between zeros."""
        # Pools of one pixel: a slice would be written to TFLite with the size of the batch.
        pixels = F.max_pool2d(x, 1, self.stride)
        return F.pad(pixels, (0, 0, 0, 0, self.before, self.behind))


def _shortcut(kind: Shortcut, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """What is added to a block's output."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if kind == "pad":
        return Pad(in_channels, out_channels, stride)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, in, H, W) -> (B, width, H / stride, W / stride)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: Shortcut = "conv") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.relu2 = nn.ReLU()
        self.shortcut = _shortcut(shortcut, in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum, then ReLU."""
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(y)) + self.shortcut(x))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut: (B, in, H, W) -> (B, 4 width, H / stride, W / stride).

    The 3x3 convolution has the stride, as today's implementations have it; the paper's first 1x1 had.
    """

    expansion = EXPANSION

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: Shortcut = "conv") -> None:
        super().__init__()
        out_channels = width * EXPANSION
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.relu2 = nn.ReLU()
        self.relu3 = nn.ReLU()
        self.shortcut = _shortcut(shortcut, in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum, then ReLU."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        return self.relu3(self.bn3(self.conv3(y)) + self.shortcut(x))  # type: ignore[no-any-return]


BLOCKS: dict[Kind, type[Block | Bottleneck]] = {"basic": Block, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """Stem, stages that each halve the image, global mean, linear head."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        blocks: Sequence[int],
        widths: Sequence[int],
        stem_stride: int = 1,
        block: Kind = "basic",
        shortcut: Shortcut = "conv",
    ) -> None:
        super().__init__()
        channels = widths[0]
        self.stem = nn.Conv2d(in_channels, channels, 3, stem_stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        layers = []
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            for i in range(count):
                layers.append(BLOCKS[block](channels, width, 2 if stage > 0 and i == 0 else 1, shortcut))
                channels = width * BLOCKS[block].expansion
        self.blocks = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to logits (B, classes)."""
        x = self.blocks(self.relu(self.bn(self.stem(x))))
        return self.head(self.pool(x).flatten(1))  # type: ignore[no-any-return]


def build(
    input_shape: tuple[int, ...],
    num_classes: int,
    blocks: Sequence[int] = (3, 3, 3),
    width: int | None = None,
    widths: Sequence[int] | None = None,
    stem_stride: int = 1,
    block: Kind = "basic",
    shortcut: Shortcut = "conv",
) -> nn.Module:
    """ResNet-20 with the defaults: `blocks` a stage, `width` (16) of the first, twice the width in each next.

    `widths` in its place gives each stage its own; a `stem_stride` of 2 halves the image before the first.
    With `block` "bottleneck" a width is that of the 3x3 convolution, and a stage gives four times as many
    channels: `blocks` [3, 4, 6, 3] is ResNet-50's. Where a block changes the shape its `shortcut` is "conv",
    a convolution of one pixel (option B), or "pad", channels of zeros (option A: no weights).
    """
    if len(input_shape) != 3:
        raise ValueError(f"resnet takes images (C, H, W), the task gives {input_shape}")
    if width is not None and widths is not None:
        raise ValueError("give width or widths, not both")
    for name, value, known in (("block", block, get_args(Kind)), ("shortcut", shortcut, get_args(Shortcut))):
        if value not in known:
            raise ValueError(f"{name} = {value!r}: one of {', '.join(known)}")
    if widths is None:
        widths = [(16 if width is None else width) * 2**stage for stage in range(len(blocks))]
    if not blocks or min(*blocks, *widths, stem_stride) < 1:
        raise ValueError("blocks, widths and stem_stride must be at least 1")
    if len(widths) != len(blocks):
        raise ValueError(f"blocks names {len(blocks)} stages, widths {len(widths)}")
    if shortcut == "pad" and (narrower := _narrower(widths)):
        raise ValueError(f"shortcut = 'pad' adds channels, and widths goes from {narrower}")
    return ResNet(input_shape[0], num_classes, blocks, widths, stem_stride, block, shortcut)


def _narrower(widths: Sequence[int]) -> str:
    """Where a stage is narrower than the one before; nothing where none is."""
    pairs = itertools.pairwise(widths)
    return next((f"{before} to {after}" for before, after in pairs if after < before), "")
