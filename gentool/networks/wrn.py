"""Wide residual networks: the classifiers before which purification of CIFAR-10 is judged.

Source: Zagoruyko and Komodakis 2016, table 1; pre-activation blocks, the projection takes the activated input.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gentool.errors import UserError
from gentool.networks.blocks import GroupNorm
from gentool.networks.classifier import Classifier
from gentool.networks.config import Wrn

LEAST = 4
"""Smallest side, in pixels, that two halvings leave something of."""


def norm_of(config: Wrn, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if config.norm == "batch" else GroupNorm(channels, 1e-5)


class WideBlock(nn.Module):
    """norm-ReLU-conv-norm-ReLU-dropout-conv beside a shortcut, (B, C, H, W) -> (B, width, H/stride, W/stride)."""

    def __init__(self, config: Wrn, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm0 = norm_of(config, channels)
        self.conv0 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.norm1 = norm_of(config, width)
        self.dropout = nn.Dropout(config.dropout)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.skip = nn.Conv2d(channels, width, 1, stride, bias=False) if channels != width else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm0(x))
        h = self.conv1(self.dropout(F.relu(self.norm1(self.conv0(active)))))
        return h + (x if self.skip is None else self.skip(active))


class WrnClassifier(Classifier):
    """conv3x3, three groups of wide blocks, the latter two at half the resolution each, norm, global mean, linear.

    Raises:
        UserError: a side shorter than 4 pixels.
    """

    def __init__(self, config: Wrn, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, *sides = shape
        if min(sides) < LEAST:
            raise UserError(
                f"images of {sides[0]}x{sides[1]} are too small for the wrn, which halves them twice: "
                f"it needs {LEAST}x{LEAST}; take mlp or logreg"
            )
        self.input = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList()
        width = 16
        for group in range(3):
            wide = 16 * 2**group * config.widen
            for block in range((config.depth - 4) // 6):
                self.blocks.append(WideBlock(config, width, wide, 2 if group and not block else 1))
                width = wide
        self.norm = norm_of(config, width)
        self.dropout = nn.Identity()
        self.output = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.output.bias)

    def extract(self, x: Tensor, c_noise: Tensor | None) -> Tensor:
        h = self.input(x)
        for block in self.blocks:
            h = block(h)
        return F.relu(self.norm(h)).mean(dim=(2, 3))
