"""Neighbourhoods: ball query, grouping and three-neighbour interpolation (Qi et al. 2017, PointNet++, 1706.02413)."""

from __future__ import annotations

import torch
from torch import Tensor


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (B, n, m) of (B, n, 3) to (B, m, 3), by differences.

    The shortcut by a matrix product would lose half the digits of short distances, the ones that matter here.
    """
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


@torch.no_grad()
def ball_query(centres: Tensor, x: Tensor, radius: float, most: int) -> Tensor:
    """The first `most` points, in their order in the cloud, that are nearer to each centre than `radius`.

    Where there are fewer, the first one is repeated; where there is none, point 0 stands in.

    Args:
        centres: (B, 3, M). x: (B, 3, N).
        radius: in the units of the coordinates; a point at exactly this distance is outside.

    Returns:
        (B, M, min(most, N)) int64.
    """
    size = x.shape[2]
    hit = distances(centres.float().mT, x.float().mT) < radius
    place = torch.arange(size, dtype=torch.int32, device=x.device)
    found = place.where(hit, size).topk(min(most, size), largest=False, sorted=True).values.long()
    first = found[..., :1]
    first = first.where(first < size, 0)
    return found.where(found < size, first)


def group(features: Tensor, index: Tensor) -> Tensor:
    """The features of the points that `index` names: (B, C, N) by (B, M) or (B, M, U) -> (B, C, M) or (B, C, M, U)."""
    flat = index.flatten(1).unsqueeze(1).expand(-1, features.shape[1], -1)
    return features.gather(2, flat).unflatten(2, index.shape[1:])


def interpolate3(features: Tensor, centres: Tensor, x: Tensor) -> Tensor:
    """Features of the centres carried to all points: the three nearest centres, weighted by 1 / squared distance.

    Squared distances are clamped to [1e-10, 1e10]. The gradient goes to the features alone.

    Args:
        features: (B, C, M), of the centres. centres: (B, 3, M). x: (B, 3, N).

    Returns:
        (B, C, N).
    """
    with torch.no_grad():
        away = distances(x.float().mT, centres.float().mT)
        nearest = away.topk(min(3, centres.shape[2]), largest=False)
        weights = nearest.values.square().clamp(1e-10, 1e10).reciprocal()
        weights = (weights / weights.sum(2, keepdim=True)).to(features)
    return (group(features, nearest.indices) * weights.unsqueeze(1)).sum(3)
