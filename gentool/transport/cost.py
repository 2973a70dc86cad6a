"""What it costs to move one labelled image onto another (Cao et al. 2021, arXiv 2111.01177, section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class MixedCost:
    """c(x, y) = l2 |x - y|_2^2 + l1 |x - y|_1 on vectors; the gradient of |.|_1 at 0 is taken as 0.

    No (n, m, D) tensor is made, neither forward nor backward.
    """

    l2: float = 1.0
    l1: float = 1.0

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(..., n, D), (..., m, D) -> (..., n, m)."""
        cost = x.new_zeros(())
        if self.l2:
            squares = x.square().sum(-1).unsqueeze(-1) + y.square().sum(-1).unsqueeze(-2)
            cost = cost + self.l2 * (squares - 2 * x @ y.mT)
        if self.l1:
            cost = cost + self.l1 * torch.cdist(x, y, p=1)
        return cost


def with_labels(points: Tensor, label: Tensor, classes: int, scale: float) -> Tensor:
    """Points (B, D) with their label (B,) beside them as `scale` times its one-hot vector: (B, D + classes).

    Two points of different classes are `scale` sqrt(2) farther apart, which is what keeps transport, and with it
    the generator, within the class. Without classes the points stay as they are.
    """
    if classes == 0:
        return points
    return torch.cat([points, scale * F.one_hot(label, classes).to(points)], 1)
