"""Inverted residual networks (Sandler et al. 2018, arXiv 1801.04381) for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "hardswish": nn.Hardswish, "silu": nn.SiLU, "gelu": nn.GELU}


def _conv(inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outer),
    ]


class SqueezeExcite(nn.Module):
    """Channels weighed by what the whole image says (Hu et al. 2017, arXiv 1709.01507)."""

    def __init__(self, channels: int, gate: nn.Module) -> None:
        super().__init__()
        inner = max(8, channels // 4)
        self.weights = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inner, 1),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1),
            gate,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return x * self.weights(x)  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1 projection, shortcut where shapes allow."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        expand: int,
        activation: str = "relu",
        squeeze_excite: bool = False,
    ) -> None:
        super().__init__()
        hidden, act = in_channels * expand, ACTIVATIONS[activation]
        gate = nn.Hardsigmoid() if activation == "hardswish" else nn.Sigmoid()
        self.body = nn.Sequential(
            *_conv(in_channels, hidden, 1),
            act(),
            *_conv(hidden, hidden, 3, stride, groups=hidden),
            act(),
            *([SqueezeExcite(hidden, gate)] if squeeze_excite else []),
            *_conv(hidden, out_channels, 1),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H / stride, W / stride)."""
        y: Tensor = self.body(x)
        return x + y if self.residual else y


class MobileNet(nn.Module):
    """Stem, inverted residual stages, 1x1 expansion, global mean, linear head.

    ReLU stands where the paper has ReLU6: a quantizer clips anyway, and plain ReLU
    folds into every runtime's convolution.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        width: int,
        blocks: Sequence[int],
        expand: int,
        activation: str = "relu",
        squeeze_excite: bool = False,
    ) -> None:
        super().__init__()
        act = ACTIVATIONS[activation]
        layers: list[nn.Module] = [*_conv(in_channels, width, 3), act()]
        channels = width
        for stage, count in enumerate(blocks):
            for i in range(count):
                out = width * 2**stage
                stride = 2 if stage > 0 and i == 0 else 1
                layers.append(InvertedResidual(channels, out, stride, expand, activation, squeeze_excite))
                channels = out
        layers += [*_conv(channels, channels * 4, 1), act()]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels * 4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to logits (B, classes)."""
        return self.head(self.pool(self.features(x)).flatten(1))  # type: ignore[no-any-return]


def build(
    input_shape: tuple[int, ...],
    num_classes: int,
    width: int = 16,
    blocks: Sequence[int] = (1, 2, 2),
    expand: int = 4,
    activation: str = "relu",
    squeeze_excite: bool = False,
) -> nn.Module:
    """A small MobileNetV2: `width` of the first stage, `blocks` a stage, expansion factor.

    With activation = "hardswish" and squeeze_excite it is built like MobileNetV3 (arXiv 1905.02244), with
    "silu" like EfficientNet (arXiv 1905.11946).
    """
    if len(input_shape) != 3:
        raise ValueError(f"mobilenet takes images (C, H, W), the task gives {input_shape}")
    if not blocks or min(blocks) < 1 or width < 1 or expand < 1:
        raise ValueError("blocks, width and expand must be at least 1")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r}: one of {', '.join(ACTIVATIONS)}")
    return MobileNet(input_shape[0], num_classes, width, blocks, expand, activation, squeeze_excite)
