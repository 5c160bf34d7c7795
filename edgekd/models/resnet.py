"""Residual networks for small images (He et al. 2015, arXiv 1512.03385, section 4.2), at any width."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, in, H, W) -> (B, out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum, then ReLU."""
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(y)) + self.shortcut(x))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """Stem, stages that each halve the image, global mean, linear head."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        blocks: Sequence[int],
        widths: Sequence[int],
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        channels = widths[0]
        self.stem = nn.Conv2d(in_channels, channels, 3, stem_stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        layers = []
        for stage, (count, out) in enumerate(zip(blocks, widths, strict=True)):
            for i in range(count):
                layers.append(Block(channels, out, 2 if stage > 0 and i == 0 else 1))
                channels = out
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
) -> nn.Module:
    """ResNet-20 with the defaults: `blocks` a stage, `width` (16) of the first, twice the width in each next.

    `widths` in its place gives each stage its own; a `stem_stride` of 2 halves the image before the first.
    """
    if len(input_shape) != 3:
        raise ValueError(f"resnet takes images (C, H, W), the task gives {input_shape}")
    if width is not None and widths is not None:
        raise ValueError("give width or widths, not both")
    if widths is None:
        widths = [(16 if width is None else width) * 2**stage for stage in range(len(blocks))]
    if not blocks or min(*blocks, *widths, stem_stride) < 1:
        raise ValueError("blocks, widths and stem_stride must be at least 1")
    if len(widths) != len(blocks):
        raise ValueError(f"blocks names {len(blocks)} stages, widths {len(widths)}")
    return ResNet(input_shape[0], num_classes, blocks, widths, stem_stride)
