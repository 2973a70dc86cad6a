"""StyleGAN2's discriminator (Karras et al. 2020, 1912.04958; 2006.06676), under the published networks' names."""

from __future__ import annotations

import math

from torch import Tensor, nn

from gentool.networks.discriminator import minibatch_std
from gentool.networks.stylegan2 import resolutions
from gentool.networks.stylegan2_config import StyleDiscriminator
from gentool.networks.stylegan2_layers import Conv, Dense, Mapping, channels_at


class Block(nn.Module):
    """Two 3x3 convolutions, the second of which halves the resolution, with a shortcut if residual.

    Args:
        channels: of the picture, for the first block, which reads it; else 0.
    """

    def __init__(self, channels: int, inner: int, outer: int, *, residual: bool, clamp: float | None) -> None:
        super().__init__()
        self.fromrgb = Conv(channels, inner, 1, clamp=clamp) if channels else None
        self.conv0 = Conv(inner, inner, 3, clamp=clamp)
        self.conv1 = Conv(inner, outer, 3, down=True, clamp=clamp)
        self.skip = Conv(inner, outer, 1, down=True, shortcut=True) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.fromrgb is None else self.fromrgb(x)
        if self.skip is None:
            return self.conv1(self.conv0(x))
        half = math.sqrt(0.5)
        return self.skip(x, gain=half) + self.conv1(self.conv0(x), gain=half)


class Epilogue(nn.Module):
    """Minibatch standard deviation, convolution and two dense layers on the 4x4 maps."""

    def __init__(self, inputs: int, outputs: int, group: int, clamp: float | None) -> None:
        super().__init__()
        self.group = group
        self.conv = Conv(inputs + 1, inputs, 3, clamp=clamp)
        self.fc = Dense(inputs * 16, inputs, act=True)
        self.out = Dense(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.fc(self.conv(minibatch_std(x, self.group)).flatten(1)))


class Discriminator(nn.Module):
    """How real pictures look: a logit each; with classes, the projection on the mapped label over sqrt of its width."""

    def __init__(self, config: StyleDiscriminator, channels: int, size: int, classes: int = 0) -> None:
        super().__init__()

        def width(resolution: int) -> int:
            return channels_at(resolution, config.channel_base, config.channel_max)

        residual = config.architecture == "resnet"
        self.group = config.group
        self.sizes = resolutions(size)[:0:-1]  # from the picture's down to 8
        for r in self.sizes:
            read = channels if r == size else 0
            block = Block(read, width(r), width(r // 2), residual=residual, clamp=config.clamp)
            self.add_module(f"b{r}", block)
        label = width(4) if classes else 0
        self.b4 = Epilogue(width(4), label or 1, config.group, config.clamp)
        self.mapping = Mapping(0, classes, label, config.layers, averaged=False) if classes else None

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, C, size, size), label (B,) int64 or None -> logits (B,)."""
        for r in self.sizes:
            x = self.get_submodule(f"b{r}")(x)
        out = self.b4(x)
        if self.mapping is None:
            return out.squeeze(1)
        y = self.mapping(None, label)
        return (out * y).sum(1) / math.sqrt(y.shape[1])
