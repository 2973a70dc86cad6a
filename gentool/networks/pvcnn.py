"""Layers of point-voxel networks whose normalisation is scaled and shifted by a style vector.

Sources: Liu et al. 2019, Point-Voxel CNN (1907.03739); Qi et al. 2017, PointNet++ (1706.02413); Zeng et al. 2022, LION
(2210.06978), appendix D. Points are channels first, (B, C, N); coordinates are (B, 3, N).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gentool.points.neighbours import ball_query, group, interpolate3
from gentool.points.voxels import devoxelise, voxelise

GROUPS = 8
HEAD_WIDTH = 32
STYLE_VARIANCE = 0.1


class StyledNorm(nn.Module):
    """Group normalisation of (B, C, ...); with a style, a norm(f) + b, where (a, b) is linear in the style vector.

    Fresh weights give a near 1 and b near 0: plain group normalisation and a small term of the style.

    Args:
        style: length of the style vector; 0 for plain group normalisation.
    """

    def __init__(self, channels: int, style: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.affine = nn.Linear(style, 2 * channels) if style else None
        if self.affine is not None:
            bound = math.sqrt(3 * STYLE_VARIANCE / (2 * channels))
            nn.init.uniform_(self.affine.weight, -bound, bound)
            with torch.no_grad():
                self.affine.bias.copy_(torch.arange(2 * channels) < channels)

    def forward(self, f: Tensor, style: Tensor | None) -> Tensor:
        f = self.norm(f)
        if self.affine is None:
            return f
        assert style is not None
        scale, shift = (v.reshape(*v.shape, *[1] * (f.dim() - 2)) for v in self.affine(style).chunk(2, dim=1))
        return torch.addcmul(shift, f, scale)


class SharedMlp(nn.Module):
    """Layers of 1x1 convolution, norm and swish on every point, or on every neighbour of every centre."""

    def __init__(self, channels: int, widths: Sequence[int], style: int) -> None:
        super().__init__()
        sizes = [channels, *widths]
        self.layers = nn.ModuleList(nn.Conv1d(a, b, 1) for a, b in zip(sizes, widths))
        self.norms = nn.ModuleList(StyledNorm(b, style) for b in widths)

    def forward(self, f: Tensor, style: Tensor | None) -> Tensor:
        """(B, C, ...) -> (B, widths[-1], ...)."""
        places = f.shape[2:]
        f = f.flatten(2)
        for layer, norm in zip(self.layers, self.norms):
            f = F.silu(norm(layer(f), style))
        return f.unflatten(2, places)


class SqueezeExcite(nn.Module):
    """Channels scaled by what their means over the voxels say."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction, bias=False)
        self.excite = nn.Linear(channels // reduction, channels, bias=False)

    def gate(self, means: Tensor) -> Tensor:
        """(B, C) -> (B, C) in (0, 1)."""
        return self.excite(self.squeeze(means).relu()).sigmoid()

    def forward(self, grid: Tensor) -> Tensor:
        return grid * self.gate(grid.flatten(2).mean(2))[:, :, None, None, None]


class LinearAttention(nn.Module):
    """Attention over N points at a cost linear in N: softmax over the points on the keys alone (1812.01243)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Conv1d(channels, 3 * heads * HEAD_WIDTH, 1, bias=False)
        self.out = nn.Conv1d(heads * HEAD_WIDTH, channels, 1)

    def forward(self, f: Tensor) -> Tensor:
        """(B, C, N) -> (B, C, N); no residual."""
        q, k, v = self.qkv(f).unflatten(1, (3, self.heads, HEAD_WIDTH)).unbind(1)
        context = k.softmax(3) @ v.mT
        return self.out((context.mT @ q).flatten(1, 2))


class PointVoxelConv(nn.Module):
    """Two 3-d convolutions on a coarse grid around the cloud, read back at the points, plus an MLP on each point.

    Args:
        resolution: voxels along each side of the grid.
        style: length of the style vector, 0 for none.
    """

    def __init__(
        self, channels: int, out: int, resolution: int, style: int, dropout: float, attention: bool = False
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.first, self.first_norm = nn.Conv3d(channels, out, 3, padding=1), StyledNorm(out, style)
        self.second, self.second_norm = nn.Conv3d(out, out, 3, padding=1), StyledNorm(out, style)
        self.dropout = nn.Dropout(dropout)
        self.squeeze = SqueezeExcite(out)
        self.points = SharedMlp(channels, (out,), style)
        self.attention = LinearAttention(out, heads=4) if attention else None

    def forward(self, f: Tensor, at: Tensor, style: Tensor | None) -> Tensor:
        """Features (B, C, N) at grid coordinates (B, 3, N) of `voxel_coordinates` -> (B, out, N)."""
        grid = voxelise(f, at, self.resolution)
        grid = self.dropout(F.silu(self.first_norm(self.first(grid), style)))
        grid = self.squeeze(self.second_norm(self.second(grid), style))
        f = devoxelise(grid, at) + self.points(f, style)
        return f if self.attention is None else self.attention(f)


class SetAbstraction(nn.Module):
    """Features of centres: an MLP on each point of the ball around a centre, and the maximum over the ball."""

    def __init__(self, channels: int, widths: Sequence[int], radius: float, most: int, style: int) -> None:
        super().__init__()
        self.radius, self.most = radius, most
        self.mlp = SharedMlp(3 + channels, widths, style)

    def forward(self, f: Tensor, x: Tensor, centres: Tensor, style: Tensor | None) -> Tensor:
        """Features (B, C, N) of points x (B, 3, N) -> (B, widths[-1], M) of centres (B, 3, M)."""
        index = ball_query(centres, x, self.radius, self.most)
        nearby = group(x, index) - centres.unsqueeze(3)
        return self.mlp(torch.cat([nearby.to(f), group(f, index)], dim=1), style).amax(3)


class FeaturePropagation(nn.Module):
    """Features of centres carried to all points, joined there by the points' own, and an MLP."""

    def __init__(self, channels: int, skipped: int, widths: Sequence[int], style: int) -> None:
        super().__init__()
        self.mlp = SharedMlp(channels + skipped, widths, style)

    def forward(
        self, f: Tensor, centres: Tensor, skip: Tensor | None, x: Tensor, style: Tensor | None
    ) -> Tensor:
        """(B, C, M) of centres (B, 3, M) and (B, skipped, N) -> (B, widths[-1], N) of points x (B, 3, N)."""
        f = interpolate3(f, centres, x)
        return self.mlp(f if skip is None else torch.cat([f, skip], dim=1), style)
