"""How far two clouds are from each other: Chamfer distance and three forms of the earth mover's.

All take (B, n, 3) and (B, m, 3) and return (B,). The three forms of the earth mover's distance are different numbers
and never belong in one column: `emd` says which one it computes.
"""

from __future__ import annotations

from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gentool.points.neighbours import distances
from gentool.transport.sinkhorn import Annealing, transport

EmdForm = Literal["approximate", "sinkhorn", "exact"]
LEVELS = (*(-(4.0**power) for power in range(7, -2, -1)), 0.0)
"""Inverse temperatures of the approximate form, in units of 1 / squared distance."""


def chamfer(x: Tensor, y: Tensor) -> Tensor:
    """mean_i min_j |x_i - y_j|^2 + mean_j min_i |x_i - y_j|^2, differentiable in both: (B, n, 3), (B, m, 3) -> (B,)."""
    with torch.no_grad():
        away = distances(x, y)
        to_y, to_x = away.argmin(2), away.argmin(1)
    forth = x - y.gather(1, to_y.unsqueeze(2).expand(-1, -1, 3))
    back = y - x.gather(1, to_x.unsqueeze(2).expand(-1, -1, 3))
    return forth.square().sum(2).mean(1) + back.square().sum(2).mean(1)


def emd(x: Tensor, y: Tensor, form: EmdForm = "approximate", blur: float = 0.01) -> Tensor:
    """The earth mover's distance of clouds of one size, (B, n, 3) each -> (B,), in one of three forms.

    - `approximate`: the cost in **squared** distances of the matching of `approximate_match`, a mean over points: the
      number that papers on point clouds print. It is far above the optimum, not quite symmetric, and depends on
      the scale of the clouds by more than its square. Its gradient is that of the cost, the matching held fixed.
    - `sinkhorn`: mean Euclidean distance with entropic regularisation `blur`: at least the exact form, and above it
      by at most `blur` log n once converged. Differentiable.
    - `exact`: mean Euclidean distance of the best matching (an assignment problem, solved on the CPU, n^3 at worst).
      Its gradient is that of the best matching.

    Args:
        blur: of `sinkhorn`, in the units of the coordinates.

    Raises:
        ValueError: clouds of different sizes.
    """
    if x.shape != y.shape:
        raise ValueError(f"clouds of one size are matched, not {tuple(x.shape)} with {tuple(y.shape)}")
    if form == "sinkhorn":
        return transport(x, y, distances, Annealing(blur, extra=20)).to(x)
    if form == "approximate":
        return (approximate_match(x, y) * distances(x, y).square()).sum((1, 2)) / x.shape[1]
    partner = torch.stack([_assigned(cost) for cost in distances(x.detach(), y.detach())])
    return (x - y.gather(1, partner.unsqueeze(2).expand(-1, -1, 3))).norm(dim=2).mean(1)


def _assigned(cost: Tensor) -> Tensor:
    """The column (n,) of each row in the cheapest assignment of a cost (n, n)."""
    return torch.from_numpy(linear_sum_assignment(cost.double().cpu().numpy())[1]).to(cost.device)


@torch.no_grad()
def approximate_match(x: Tensor, y: Tensor) -> Tensor:
    """The soft matching (B, n, n) of Fan et al. 2017 (A point set generation network, 1612.00603), as it is published.

    Ten rounds from cold to hot hand out what mass is left of each point, in proportion to exp(level d^2). The levels
    are absolute, so the matching depends on the clouds' scale. Rows and columns sum to at most 1, and nearly to 1.
    """
    squares = distances(x, y).square()
    match = torch.zeros_like(squares)
    left, right = squares.new_ones(squares.shape[:2]), squares.new_ones(squares.shape[::2])
    for level in LEVELS:
        kernel = (level * squares).exp_()
        offer = left / (kernel @ right.unsqueeze(2)).squeeze(2).add_(1e-9)
        asked = right * (kernel.mT @ offer.unsqueeze(2)).squeeze(2)
        taken = (right / (asked + 1e-9)).clamp(max=1) * right
        right = (right - asked).clamp(min=0)
        moved = kernel.mul_(offer.unsqueeze(2)).mul_(taken.unsqueeze(1))
        match += moved
        left = (left - moved.sum(2)).clamp(min=0)
    return match
