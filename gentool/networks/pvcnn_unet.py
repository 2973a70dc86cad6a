"""Networks on point clouds made of point-voxel convolutions: a U-Net, an encoder to one vector (LION, 2210.06978)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from gentool.networks.embedding import Positional
from gentool.networks.pvcnn import (
    FeaturePropagation,
    LinearAttention,
    PointVoxelConv,
    SetAbstraction,
    SharedMlp,
)
from gentool.networks.pvcnn_config import Abstraction, PointEncoder, PointUNet, Propagation, Sampler
from gentool.points.neighbours import group
from gentool.points.sampling import farthest_point_sample
from gentool.points.voxels import voxel_coordinates


def centre_order(x: Tensor, count: int, sampler: Sampler = "farthest") -> Tensor:
    """The points (B, 3, min(count, N)) of clouds x (B, 3, N) that stand for them, the most important first.

    The centres of every level are the first of these: farthest points sampled again from farthest points are their
    first ones, for each next point is the farthest of all, hence of any subset that holds it. So one loop serves all
    levels, and all networks that look at the same cloud.
    """
    return group(x, farthest_point_sample(x, count)) if sampler == "farthest" else x[:, :, :count]


class Convolutions(nn.Module):
    """Point-voxel convolutions one after the other, on one grid."""

    def __init__(self, channels: int, level: Abstraction | Propagation, style: int, dropout: float) -> None:
        super().__init__()
        self.resolution = level.resolution
        width, attention = level.channels, isinstance(level, Abstraction) and level.attention
        self.blocks = nn.ModuleList(
            PointVoxelConv(width if i else channels, width, level.resolution, style, dropout, attention)
            for i in range(level.blocks if width else 0)
            if width is not None
        )

    def forward(self, f: Tensor, x: Tensor, style: Tensor | None) -> Tensor:
        if not len(self.blocks):
            return f
        at = voxel_coordinates(x, self.resolution)
        for block in self.blocks:
            f = block(f, at, style)
        return f


class Level(nn.Module):
    """One level down."""

    def __init__(self, channels: int, level: Abstraction, style: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = Convolutions(channels, level, style, dropout)
        self.gather = SetAbstraction(
            level.channels or channels, level.widths, level.radius, level.neighbours, style
        )

    def forward(self, f: Tensor, x: Tensor, centres: Tensor, style: Tensor | None) -> Tensor:
        return self.gather(self.convolutions(f, x, style), x, centres, style)


class CloudEncoder(nn.Module):
    """A cloud (B, 3, N) to one vector (B, out); the last layer starts at zero."""

    def __init__(self, config: PointEncoder, out: int, sampler: Sampler = "farthest") -> None:
        super().__init__()
        self.counts, self.sampler = [level.centres for level in config.down], sampler
        self.levels, channels = nn.ModuleList(), 3
        for level in config.down:
            self.levels.append(Level(channels, level, 0, config.dropout))
            channels = level.widths[-1]
        self.out = nn.Linear(channels, out)
        zero(self.out)

    def forward(self, x: Tensor, order: Tensor | None = None) -> Tensor:
        """`order`: the cloud's `centre_order`, where it is known, of at least as many points as there are centres."""
        places = places_of(x, order, self.counts, self.sampler)
        f = x
        for level, here, there in zip(self.levels, places, places[1:]):
            f = level(f, here, there, None)
        return self.out(f.amax(2))


class CloudUNet(nn.Module):
    """Coordinates (B, 3, N) and features (B, F, N) of each point to (B, out, N).

    Args:
        features: F, beside the coordinates; may be 0.
        style: length of the style vector.
        time: width of the embedding of a noise level; 0 for a network that is told none.
        identity: start the last layer at zero, so that what the output is added to passes unchanged.
    """

    def __init__(
        self,
        config: PointUNet,
        features: int,
        out: int,
        style: int,
        time: int = 0,
        *,
        sampler: Sampler = "farthest",
        identity: bool = False,
    ) -> None:
        super().__init__()
        self.counts, self.sampler = [level.centres for level in config.down], sampler
        self.time = TimeEmbedding(time) if time else None
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        channels, skips = 3 + features, [features]
        for i, level in enumerate(config.down):
            # the finest level is not told the noise level, as published
            self.down.append(Level(channels + (time if i else 0), level, style, config.dropout))
            channels = level.widths[-1]
            skips.append(channels)
        self.attention = LinearAttention(channels, heads=8)
        for step, skipped in zip(config.up, reversed(skips[:-1])):
            self.up.append(FeaturePropagation(channels + time, skipped, step.widths, style))
            self.up.append(Convolutions(step.widths[-1], step, style, config.dropout))
            channels = step.channels
        self.head = SharedMlp(channels, (config.head,), style)
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Conv1d(config.head, out, 1)
        if identity:
            zero(self.out)

    def forward(
        self,
        x: Tensor,
        features: Tensor | None,
        style: Tensor,
        level: Tensor | None = None,
        order: Tensor | None = None,
    ) -> Tensor:
        """(B, out, N).

        Args:
            x: (B, 3, N). features: (B, F, N); None for F = 0. style: (B, S).
            level: (B,) noise levels in 1 .. T, for a network with a time embedding.
            order: the cloud's `centre_order`, where it is known, of at least as many points as there are centres.
        """
        places = places_of(x, order, self.counts, self.sampler)
        told = None if self.time is None or level is None else self.time(level).unsqueeze(2)
        f = x if features is None else torch.cat([x, features], dim=1)
        skips: list[Tensor | None] = [features]
        for i, down in enumerate(self.down):
            f = down(f if i == 0 else joined(f, told), places[i], places[i + 1], style)
            skips.append(f)
        f = self.attention(f)
        for i in reversed(range(len(self.down))):
            carry, convolve = self.up[2 * (len(self.down) - 1 - i) :][:2]
            f = carry(joined(f, told), places[i + 1], skips[i], places[i], style)
            f = convolve(f, places[i], style)
        return self.out(self.dropout(self.head(f, style)))


def places_of(x: Tensor, order: Tensor | None, counts: Sequence[int], sampler: Sampler) -> list[Tensor]:
    """The points of every level, (B, 3, M) each: all of them, then fewer and fewer centres."""
    if order is None:
        order = centre_order(x, max(counts), sampler)
    return [x, *(order[:, :, :count] for count in accumulate(counts, min))]


class TimeEmbedding(nn.Module):
    """Noise levels (B,) to (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.waves = Positional(width, endpoint=True)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(0.1), nn.Linear(width, width))

    def forward(self, level: Tensor) -> Tensor:
        return self.mlp(self.waves(level).to(self.mlp[0].weight))


def joined(f: Tensor, told: Tensor | None) -> Tensor:
    """Features (B, C, N) with the embedding (B, E, 1) beside those of every point."""
    return f if told is None else torch.cat([f, told.expand(-1, -1, f.shape[2])], dim=1)


def zero(layer: nn.Linear | nn.Conv1d) -> None:
    """Sets the layer's weights and bias to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
