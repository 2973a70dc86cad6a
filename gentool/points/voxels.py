"""From points to a voxel grid and back (Liu et al. 2019, Point-Voxel CNN, 1907.03739, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def voxel_coordinates(x: Tensor, resolution: int) -> Tensor:
    """Where each point lies in a grid around its cloud: (B, 3, N) -> (B, 3, N) in [0, resolution - 1], unrounded.

    A cloud is centred at its mean and scaled by its farthest point, so that a shifted or scaled cloud has the same
    coordinates. No gradient.
    """
    centred = x.float() - x.float().mean(2, keepdim=True)
    reach = centred.norm(dim=1, keepdim=True).amax(2, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return ((centred / (2 * reach) + 0.5) * resolution).clamp(0, resolution - 1)


def voxelise(features: Tensor, coordinates: Tensor, resolution: int) -> Tensor:
    """The mean of the features of the points in each voxel; 0 where there is none.

    Args:
        features: (B, C, N).
        coordinates: (B, 3, N) of `voxel_coordinates`; a point is in the voxel that they round to.

    Returns:
        (B, C, resolution, resolution, resolution), the axes in the order of the coordinates.
    """
    x, y, z = coordinates.round().long().unbind(1)
    place = ((x * resolution + y) * resolution + z).unsqueeze(1)
    cells = resolution**3
    counts = features.new_zeros(len(features), 1, cells).scatter_add(
        2, place, torch.ones_like(features[:, :1])
    )
    sums = features.new_zeros(*features.shape[:2], cells).scatter_add(2, place.expand_as(features), features)
    return (sums / counts.clamp_min(1)).unflatten(2, (resolution, resolution, resolution))


def devoxelise(grid: Tensor, coordinates: Tensor) -> Tensor:
    """Trilinear interpolation of a grid at the unrounded coordinates; the gradient goes to the grid alone.

    Args:
        grid: (B, C, r, r, r), the axes in the order of the coordinates.
        coordinates: (B, 3, N) in [0, r - 1].

    Returns:
        (B, C, N).
    """
    last = max(grid.shape[2] - 1, 1)
    # grid_sample wants [-1, 1] from the first voxel's centre to the last's, and the last axis first.
    at = (2 * coordinates.detach() / last - 1).flip(1).mT[:, :, None, None].to(grid)
    return F.grid_sample(grid, at, mode="bilinear", padding_mode="border", align_corners=True)[..., 0, 0]
