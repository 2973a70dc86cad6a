"""MLPs for vectors and tiny images: modulated by the noise level (FiLM), or given it beside the pixels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.networks import config as configs
from gentool.networks.base import Features, Network
from gentool.networks.embedding import Mapping, Positional

NOISE_WIDTH = 32
"""Sinusoids of the noise level that a `ConcatMLP` is given."""


class FilmBlock(nn.Module):
    """x + W2 dropout(SiLU(W1 film(norm(x)))), scale and shift of film from emb; starts as the identity."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(width, 2 * width)
        self.linear0 = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.linear1 = nn.Linear(width, width)
        nn.init.zeros_(self.linear1.weight)
        nn.init.zeros_(self.linear1.bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.film(emb).chunk(2, dim=1)
        h = self.norm(x) * (1 + scale) + shift
        return x + self.linear1(self.dropout(F.silu(self.linear0(h))))


class FilmMLP(Network):
    """Flattens (B, in_channels, H, W) or takes (B, in_channels * D); the output starts at zero.

    `Features.last` is (B, width).

    Args:
        size: (H, W), or (D,) for vectors.
    """

    def __init__(
        self,
        config: configs.FilmMLP,
        in_channels: int,
        out_channels: int,
        size: tuple[int, ...],
        classes: int,
    ) -> None:
        super().__init__()
        width, values = config.width, math.prod(size)
        self.shape = (out_channels, *size) if len(size) > 1 else (out_channels * values,)
        self.mapping = Mapping(
            Positional(width, endpoint=True),
            width,
            width,
            classes=classes,
            label=nn.Embedding(classes + 1, width) if classes else None,
            augment=config.augment,
        )
        self.input = nn.Linear(in_channels * values, width)
        self.blocks = nn.ModuleList([FilmBlock(width, config.dropout) for _ in range(config.blocks)])
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, out_channels * values)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def features(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Features:
        emb = self.mapping(c_noise, label, augment)
        active = F.silu(emb)
        h = self.input(torch.flatten(x, 1))
        for block in self.blocks:
            h = block(h, active)
        return Features(self.output(F.silu(self.norm(h))).unflatten(1, self.shape), h, emb)


class ConcatMLP(Network):
    """h = SiLU(W [x, sinusoids of c_noise, one-hot label]), h + SiLU(V h) per block, a linear output from zero.

    Flattens (B, in_channels, H, W) or takes (B, in_channels * D). `Features.last` is (B, width), and `Features.emb`
    what stands beside the pixels.

    Args:
        size: (H, W), or (D,) for vectors.
    """

    def __init__(
        self,
        config: configs.ConcatMLP,
        in_channels: int,
        out_channels: int,
        size: tuple[int, ...],
        classes: int,
    ) -> None:
        super().__init__()
        width, values = config.width, math.prod(size)
        self.shape = (out_channels, *size) if len(size) > 1 else (out_channels * values,)
        self.labels = classes + 1 if classes else 0
        self.augment = config.augment
        self.noise = Positional(NOISE_WIDTH, endpoint=True)
        beside = NOISE_WIDTH + self.labels + config.augment
        self.input = nn.Linear(in_channels * values + beside, width)
        self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(config.blocks)])
        self.output = nn.Linear(width, out_channels * values)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def features(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Features:
        if label is not None and not self.labels:
            raise ValueError("label given to an unconditional network: pass None, or build it with classes")
        if augment is not None and not self.augment:
            raise ValueError("augment given to a network built without it: set `augment` in its config")
        x = torch.flatten(x, 1)
        beside = [self.noise(c_noise)]
        if self.labels:
            null = torch.full_like(c_noise, self.labels - 1, dtype=torch.int64)
            shown = null if label is None else label
            beside.append(shown[:, None] == torch.arange(self.labels, device=x.device))
        if self.augment:
            beside.append(x.new_zeros(len(x), self.augment) if augment is None else augment)
        emb = torch.cat([part.to(x.dtype) for part in beside], 1)
        h = F.silu(self.input(torch.cat([x, emb], 1)))
        for block in self.blocks:
            h = h + F.silu(block(h))
        return Features(self.output(h).unflatten(1, self.shape), h, emb)
