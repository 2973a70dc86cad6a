"""Which points stand for a cloud: farthest-point sampling (Qi et al. 2017, PointNet++, 1706.02413, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def farthest_point_sample(x: Tensor, count: int) -> Tensor:
    """Indices of points that are far from each other: the first is point 0, each next one the farthest from all before.

    Of points that are equally far the first is taken. The loop over `count` is inherent; everything in it is
    vectorised over the batch. The result depends on the coordinates alone, so layers that look at the same cloud
    should share it.

    Args:
        x: (B, 3, N) coordinates.
        count: how many; no more than N are returned.

    Returns:
        (B, min(count, N)) int64.
    """
    batch, _, size = x.shape
    count = min(count, size)
    axes = [axis.contiguous() for axis in x.float().unbind(1)]
    chosen = torch.zeros(batch, count, dtype=torch.long, device=x.device)
    nearest = torch.full((batch, size), torch.inf, device=x.device)
    last = chosen[:, :1]
    distance, difference = torch.empty_like(nearest), torch.empty_like(nearest)
    for place in range(1, count):
        # Three axes one after the other, in place: half the time of (B, 3, N) tensors with a sum over 3.
        torch.sub(axes[0], axes[0].gather(1, last), out=difference)
        torch.mul(difference, difference, out=distance)
        for axis in axes[1:]:
            torch.sub(axis, axis.gather(1, last), out=difference)
            distance.addcmul_(difference, difference)
        torch.minimum(nearest, distance, out=nearest)
        last = nearest.argmax(1, keepdim=True)
        chosen[:, place : place + 1] = last
    return chosen
