"""Entropic optimal transport by Sinkhorn's iterations in the log domain.

W(a, b) = min over couplings pi of a and b of E_pi[c] + eps KL(pi | a x b), with the symmetric, annealed iterations
of Feydy (Geometric data analysis, beyond convolutions, 2020, section 3.3). All of it is batched: leading
dimensions are problems of their own that share the levels of eps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Cost = Callable[[Tensor, Tensor], Tensor]
"""(points (..., n, D), points (..., m, D)) -> costs (..., n, m)."""


@dataclass(frozen=True)
class Annealing:
    """Levels of eps from diameter^exponent down to blur^exponent, each scale `scaling` times the one before.

    Attributes:
        blur: the final scale, in units of the points.
        exponent: of the cost as a function of distance: eps is a scale to this power.
        scaling: ratio of one scale to the one before it, in (0, 1).
        extra: further iterations at the last level. Without them the plan is approximate where blur is small
            against the distances: its rows sum to the first weights exactly, its columns to the second only
            nearly.
    """

    blur: float
    exponent: float = 1.0
    scaling: float = 0.5
    extra: int = 0

    @property
    def eps(self) -> float:
        """The regularisation that is aimed at, in units of the cost."""
        return self.blur**self.exponent

    def levels(self, diameter: float) -> list[float]:
        """Values of eps, never rising, the last of them `eps`; the largest is taken twice."""
        if diameter <= self.blur:
            return [self.eps] * (2 + self.extra)
        scales = math.ceil(math.log(self.blur / diameter) / math.log(self.scaling))
        between = [(diameter * self.scaling**k) ** self.exponent for k in range(scales)]
        return [between[0], *between, *[self.eps] * (1 + self.extra)]


@dataclass(frozen=True)
class Dual:
    """Dual potentials f (..., n) and g (..., m): a solution when f + g <= c in the soft sense of level `eps`."""

    f: Tensor
    g: Tensor
    eps: float


def softmin(cost: Tensor, potential: Tensor, log_weights: Tensor, eps: float) -> Tensor:
    """-eps log sum_j w_j exp((p_j - c_ij) / eps) over the last dimension: (..., n, m) -> (..., n).

    The exponents, of size cost/eps, are shifted by their row's largest: nothing overflows.
    """
    return -eps * torch.logsumexp((log_weights + potential / eps).unsqueeze(-2) - cost / eps, -1)


@torch.no_grad()
def solve(cost: Tensor, log_a: Tensor, log_b: Tensor, levels: Sequence[float]) -> Dual:
    """Potentials after one averaged update at each level.

    Both are updated from the old ones and averaged with them, so that exchanging the two point sets exchanges
    the potentials and nothing else.

    Args:
        cost: (..., n, m).
        log_a, log_b: logarithms of the weights, (..., n) and (..., m), each set summing to 1.
        levels: values of eps, the last of them the one that is aimed at.
    """
    across = cost.mT
    f = softmin(cost, torch.zeros_like(log_b), log_b, levels[0])
    g = softmin(across, torch.zeros_like(log_a), log_a, levels[0])
    for eps in levels:
        new_f, new_g = softmin(cost, g, log_b, eps), softmin(across, f, log_a, eps)
        f, g = (f + new_f) / 2, (g + new_g) / 2
    return Dual(f, g, levels[-1])


def plan(cost: Tensor, log_a: Tensor, log_b: Tensor, dual: Dual) -> Tensor:
    """The coupling (..., n, m) that `transport` moves the first points by: each row sums to its weight exactly."""
    logits = (log_b + dual.g / dual.eps).unsqueeze(-2) - cost / dual.eps
    return log_a.unsqueeze(-1).exp() * logits.softmax(-1)


def transport(
    x: Tensor,
    y: Tensor,
    cost: Cost,
    annealing: Annealing,
    a: Tensor | None = None,
    b: Tensor | None = None,
) -> Tensor:
    """W between points x (..., n, D) with weights a (..., n) and y (..., m, D) with weights b: (...,).

    The value is the dual's, <a, f> + <b, g>. By the envelope theorem its gradient is that of the cost alone, the
    plan held fixed: no gradient passes through the iterations. Each side's gradient comes from one last update of
    its own potential, so that point i of x gets a_i sum_j pi(j | i) dc(x_i, y_j)/dx_i with sum_j pi(j | i) = 1
    exactly, however far the iterations have come; likewise each point of y.

    Computed in float64 where the device has it: exponents reach cost/eps, 1e5 in common use.

    Args:
        a, b: weights above 0, each set summing to 1; None is the same for all.
        annealing: its diameter is the Euclidean norm of the features' ranges over all points.
    """
    dtype = torch.float32 if x.device.type == "mps" else torch.float64
    x, y = x.to(dtype), y.to(dtype)
    log_a, log_b = _log_weights(x, a), _log_weights(y, b)
    with torch.no_grad():
        levels = annealing.levels(diameter(x, y))
    from_x = cost(x, y.detach())
    dual = solve(from_x.detach(), log_a, log_b, levels)
    f = softmin(from_x, dual.g, log_b, dual.eps)
    from_y = cost(y, x.detach()) if y.requires_grad else from_x.detach().mT
    g = softmin(from_y, dual.f, log_a, dual.eps)
    return (log_a.exp() * f).sum(-1) + (log_b.exp() * g).sum(-1)


def diameter(x: Tensor, y: Tensor) -> float:
    """Euclidean norm of the ranges of each feature over both sets (the longest of a batch's)."""
    low = torch.minimum(x.amin(-2), y.amin(-2))
    high = torch.maximum(x.amax(-2), y.amax(-2))
    return float((high - low).norm(dim=-1).max())


def _log_weights(points: Tensor, weights: Tensor | None) -> Tensor:
    if weights is not None:
        return weights.to(points).log()
    return points.new_full(points.shape[:-1], -math.log(points.shape[-2]))
