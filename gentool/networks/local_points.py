"""Features of places near a cloud: a local PointNet, a 3-d U-Net on the grid, and decoders of points.

Peng et al. 2020, Convolutional Occupancy Networks (2003.04618), section 3; Peng et al. 2021, Shape As Points
(2106.03452).
Points are (B, 3, N) in the unit cube.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gentool.points.voxels import devoxelise, voxelise


class ResidualPoints(nn.Module):
    """Two linear layers of every point beside a linear or no shortcut; the second starts at zero."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(channels, min(channels, out), 1)
        self.second = nn.Conv1d(min(channels, out), out, 1)
        self.shortcut = nn.Identity() if channels == out else nn.Conv1d(channels, out, 1, bias=False)
        nn.init.zeros_(self.second.weight)

    def forward(self, f: Tensor) -> Tensor:
        return self.shortcut(f) + self.second(F.relu(self.first(F.relu(f))))


def pooled(f: Tensor, at: Tensor, resolution: int) -> Tensor:
    """To each point the maximum of its voxel: features (B, C, N), coordinates (B, 3, N) in [0, r - 1] -> (B, C, N)."""
    x, y, z = at.round().long().unbind(1)
    place = ((x * resolution + y) * resolution + z).unsqueeze(1).expand_as(f)
    grid = f.new_zeros(*f.shape[:2], resolution**3)
    return grid.scatter_reduce(2, place, f, "amax", include_self=False).gather(2, place)


class LocalPointNet(nn.Module):
    """A cloud to a grid of features (B, C, r, r, r): the mean over the points of each voxel, 0 where there are none."""

    def __init__(self, width: int, blocks: int, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.lift = nn.Conv1d(3, 2 * width, 1)
        self.blocks = nn.ModuleList(ResidualPoints(2 * width, width) for _ in range(blocks))
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        at = grid_places(x, self.resolution)
        f = self.blocks[0](self.lift(x))
        for block in self.blocks[1:]:
            f = block(torch.cat([f, pooled(f, at, self.resolution)], 1))
        return voxelise(self.out(f), at, self.resolution)


def grid_places(x: Tensor, resolution: int) -> Tensor:
    """Points of the unit cube in a grid whose first and last nodes lie on its sides; those outside are at the rim."""
    return (x * (resolution - 1)).clamp(0, resolution - 1)


class DoubleConv(nn.Sequential):
    """Twice: group norm, convolution, rectifier."""

    def __init__(self, channels: int, middle: int, out: int) -> None:
        super().__init__(
            *(nn.GroupNorm(min(8, channels), channels), nn.Conv3d(channels, middle, 3, padding=1), nn.ReLU()),
            *(nn.GroupNorm(min(8, middle), middle), nn.Conv3d(middle, out, 3, padding=1), nn.ReLU()),
        )


class GridUNet(nn.Module):
    """A U-Net on a grid, (B, C, r, r, r) to the same, with widths C, 2 C, 4 C ... on the way down."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        # on the way down the second convolution widens, on the way up the first narrows: full grids stay narrow
        self.down = nn.ModuleList(
            DoubleConv(before, max(before, after // 2), after)
            for before, after in zip(widths[:1] + widths, widths)
        )
        self.up = nn.ModuleList(
            DoubleConv(here + below, here, here) for here, below in reversed(list(pairwise(widths)))
        )
        self.out = nn.Conv3d(width, width, 1)

    def forward(self, f: Tensor) -> Tensor:
        kept = []
        for level, block in enumerate(self.down):
            f = block(F.max_pool3d(f, 2) if level else f)
            kept.append(f)
        for block, beside in zip(self.up, reversed(kept[:-1])):
            f = block(torch.cat([beside, F.interpolate(f, size=beside.shape[2:])], 1))
        return self.out(f)


class LocalDecoder(nn.Module):
    """Places and the grid's features there to values: (B, 3, N), (B, C, r, r, r) -> (B, out, N)."""

    def __init__(self, width: int, blocks: int, out: int) -> None:
        super().__init__()
        self.lift = nn.Conv1d(3, width, 1)
        self.told = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(blocks))
        self.blocks = nn.ModuleList(ResidualPoints(width, width) for _ in range(blocks))
        self.out = nn.Conv1d(width, out, 1)

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        near, f = devoxelise(grid, grid_places(x, grid.shape[2])), self.lift(x)
        for told, block in zip(self.told, self.blocks):
            f = block(f + told(near))
        return self.out(F.relu(f))
