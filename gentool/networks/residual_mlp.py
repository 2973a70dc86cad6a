"""Residual MLP on a noisy vector and its noise level: the network of LION's global prior (2210.06978, appendix D)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gentool.networks.embedding import Positional
from gentool.networks.pvcnn import SqueezeExcite
from gentool.networks.pvcnn_config import ResidualMlp


class ResidualBlock(nn.Module):
    """x + SE(relu(L2(drop(relu(L1([x + t, e]))))))."""

    def __init__(self, width: int, told: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width + told, width), nn.Linear(width, width)
        self.dropout, self.squeeze = nn.Dropout(dropout), SqueezeExcite(width)

    def forward(self, x: Tensor, time: Tensor, told: Tensor | None) -> Tensor:
        fed = x + time if told is None else torch.cat([x + time, told], dim=1)
        f = self.second(self.dropout(self.first(fed).relu())).relu()
        return x + f * self.squeeze.gate(f)


class VectorPrior(nn.Module):
    """(B, size) at noise levels (B,) in 1 .. T, and what it is told (B, told) -> (B, size).

    Args:
        told: length of the vector it is told; 0 for none.
    """

    def __init__(self, config: ResidualMlp, size: int, told: int = 0) -> None:
        super().__init__()
        width = config.width
        # two layers without an activation between them, as published
        self.time = nn.Sequential(
            Positional(config.embedding, endpoint=True),
            nn.Linear(config.embedding, 512),
            nn.Linear(512, width),
        )
        self.told = nn.Linear(told, width) if told else None
        self.first = nn.Linear(size, width)
        self.blocks = nn.ModuleList(
            ResidualBlock(width, width if told else 0, config.dropout) for _ in range(config.blocks)
        )
        self.out = nn.Linear(width, size)

    def forward(self, x: Tensor, level: Tensor, told: Tensor | None = None) -> Tensor:
        time = self.time(level.to(x))
        known = None if self.told is None or told is None else self.told(told)
        f = self.first(x)
        for block in self.blocks:
            f = block(f, time, known)
        return self.out(f)
