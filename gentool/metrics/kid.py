"""Kernel distance of features (KID with Inception features: Binkowski et al. 2018, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from gentool.errors import UserError
from gentool.metrics.evidence import Evidence, Judgement

SUBSETS = 100
SUBSET_SIZE = 1000
BLOCK = 1024


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    """Sum over all pairs of (x.y/d + 1)^3, in blocks of at most BLOCK x BLOCK, float64."""
    total = x.new_zeros((), dtype=torch.float64)
    for a in x.split(BLOCK):
        for b in y.split(BLOCK):
            total += (a.double() @ b.double().T).div_(x.shape[1]).add_(1).pow_(3).sum()
    return total


def polynomial_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD of x (n, d) and y (m, d) under k(a, b) = (a.b/d + 1)^3.

    The U-statistic of Gretton et al. (2012, equation 3): it may be negative, and has mean 0 for equal
    distributions.

    Raises:
        UserError: fewer than two rows on a side.
    """
    n, m = len(x), len(y)
    if n < 2 or m < 2:
        raise UserError(f"an unbiased MMD needs at least two images on each side, there are {n} and {m}")

    def within(z: Tensor) -> Tensor:
        own = (z.double().square().sum(1) / z.shape[1] + 1).pow(3).sum()
        return (_kernel_sum(z, z) - own) / (len(z) * (len(z) - 1))

    return float(within(x) + within(y) - 2 * _kernel_sum(x, y) / (n * m))


def kernel_distance(
    x: Tensor, y: Tensor, subsets: int = SUBSETS, size: int = SUBSET_SIZE, seed: int = 0
) -> Tensor:
    """`polynomial_mmd` of seeded random subsets of at most `size` rows a side: (subsets,) float64."""
    size = min(size, len(x), len(y))
    generator = torch.Generator().manual_seed(seed)

    def draw(z: Tensor) -> Tensor:
        return z[torch.randperm(len(z), generator=generator)[:size].to(z.device)]

    return torch.tensor([polynomial_mmd(draw(x), draw(y)) for _ in range(subsets)], dtype=torch.float64)


def kid(evidence: Evidence) -> Judgement:
    """`kid`: 0 when the distributions agree, and then negative as often as positive; lower is better."""
    x, y = evidence.samples.features, evidence.reference.features
    if max(len(x), len(y)) <= SUBSET_SIZE:
        return Judgement({"kid": polynomial_mmd(x, y)}, {"subsets": 1})
    values = kernel_distance(x, y, seed=evidence.seed)
    size = min(SUBSET_SIZE, len(x), len(y))
    return Judgement(
        {"kid": float(values.mean())}, {"subsets": SUBSETS, "subset_size": size, "std": float(values.std())}
    )
