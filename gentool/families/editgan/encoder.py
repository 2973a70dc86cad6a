"""A picture to the latents of every layer (W+), as offsets from the generator's mean w."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.families.editgan.config import EncoderConfig


class Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut; halves the resolution between them, so that the wide one is cheap."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.second = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.avg_pool2d(self.first(F.leaky_relu(x, 0.2)), 2)
        return self.second(F.leaky_relu(h, 0.2)) + self.shortcut(F.avg_pool2d(x, 2))


class Encoder(nn.Module):
    """A tower of residual blocks down to 4x4, and a linear layer a style.

    As in the published encoder coarse styles are read from the deepest maps; fine ones also from the maps of 8 pixels,
    brought to the same grid. No batch statistics, so that a picture's latents are its own.

    Args:
        shape: (C, size, size) of the pictures; size a power of two from 8 up.
        styles, width: of the latents.
    """

    centre: Tensor

    def __init__(self, config: EncoderConfig, shape: tuple[int, ...], styles: int, width: int) -> None:
        super().__init__()
        channels = config.channels
        self.input = nn.Conv2d(shape[0], channels, 3, padding=1)
        self.blocks = nn.ModuleList()
        size, wide = shape[1], channels
        while size > 4:
            outer = min(2 * wide, config.most)
            self.blocks.append(Residual(wide, outer))
            previous, wide, size = wide, outer, size // 2
        self.fine_from = styles // 2
        self.coarse = nn.ModuleList(nn.Linear(wide * 16, width) for _ in range(self.fine_from))
        self.fine = nn.ModuleList(
            nn.Linear((wide + previous) * 16, width) for _ in range(styles - self.fine_from)
        )
        self.register_buffer("centre", torch.zeros(width))
        for layer in (*self.coarse, *self.fine):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, C, size, size) in [-1, 1] -> (B, styles, width)."""
        h = self.input(x)
        before = h
        for block in self.blocks:
            before, h = h, block(h)
        deep = F.leaky_relu(h, 0.2).flatten(1)
        both = torch.cat([deep, F.leaky_relu(F.avg_pool2d(before, 2), 0.2).flatten(1)], 1)
        found = [layer(deep) for layer in self.coarse] + [layer(both) for layer in self.fine]
        return self.centre + torch.stack(found, 1)
