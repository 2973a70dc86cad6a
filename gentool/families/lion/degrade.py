"""Clouds as voxels or noise leave them: what encoders are fine-tuned to read."""

from __future__ import annotations

import torch
from torch import Tensor

from gentool.families.lion.config import InputConfig, VoxelInput


def degrade(x: Tensor, config: InputConfig, generator: torch.Generator) -> Tensor:
    """Clean clouds (B, 3, N) as the input (B, 3, N); draws from the generator of their device."""
    if isinstance(config, VoxelInput):
        return torch.stack([_voxel_centres(cloud, config.size, generator) for cloud in x])
    if config.law == "gaussian":
        noise = torch.randn(x.shape, generator=generator, device=x.device)
    else:
        noise = 2 * torch.rand(x.shape, generator=generator, device=x.device) - 1
    moved = x + config.scale * noise
    if not config.outliers:
        return moved
    low, high = x.amin(2, keepdim=True), x.amax(2, keepdim=True)
    anywhere = low + (high - low) * torch.rand(x.shape, generator=generator, device=x.device)
    lost = torch.rand(x[:, :1].shape, generator=generator, device=x.device) < config.outliers
    return torch.where(lost, anywhere, moved)


def _voxel_centres(cloud: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """N centres, with replacement, of the voxels that a cloud (3, N) touches; they are at multiples of the size."""
    occupied = (cloud / size).round().unique(dim=1)
    return drawn_points(occupied * size, cloud.shape[1], generator)


def drawn_points(cloud: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(3, count) of a cloud (3, M): all of its points if there are as many, else with replacement."""
    size = cloud.shape[1]
    if size == count:
        return cloud
    chosen = torch.randint(size, (count,), generator=generator, device=cloud.device)
    return cloud[:, chosen]
