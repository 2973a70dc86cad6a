"""What the tests of Langevin diffusion share: exact moments of a solver on Gaussian data."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from gentool.diffusion.grids import Grid
from gentool.diffusion.langevin.mixture import LangevinMixture
from gentool.diffusion.langevin.process import Langevin
from gentool.diffusion.mixture import GaussianMixture
from gentool.diffusion.solvers.core import Solver, State
from gentool.noise import Noise


class UnitNoise:
    """Stands in for `Noise`: every increment is `value`, (B, 2, 1)."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def increment(self, stream: str, a: float, b: float, depth: int) -> Tensor:
        return self.value


class OneDraw:
    """Stands in for `Noise`: the k-th increment asked for is `value`, the others are 0."""

    def __init__(self, k: int, value: Tensor) -> None:
        self.k, self.value, self.asked = k, value, 0

    def increment(self, stream: str, a: float, b: float, depth: int) -> Tensor:
        self.asked += 1
        return self.value if self.asked - 1 == self.k else torch.zeros_like(self.value)


def gaussian(std: float, process: Langevin, mean: float = 0.0) -> LangevinMixture:
    """N(mean, std^2) in one dimension."""
    return LangevinMixture(GaussianMixture([[mean]], [std]), process)


def exact_covariance(data: LangevinMixture, t: float) -> Tensor:
    """(2, 2) covariance of (x, w) at t, for data of one component."""
    c = data._spread(torch.tensor([t], dtype=torch.float64))
    return torch.tensor([[float(c.xx), float(c.xw)], [float(c.xw), float(c.ww)]], dtype=torch.float64)


def sampled_covariance(
    solver: Solver, grid: Grid, data: LangevinMixture, start: Tensor | None = None
) -> Tensor:
    """(2, 2) covariance that a solver ends with on Gaussian data of mean 0, without drawing: its steps are linear."""
    plan = solver.prepare(grid, data.process)
    found = torch.eye(2, dtype=torch.float64) if start is None else start
    basis, still = torch.eye(2, dtype=torch.float64).unsqueeze(2), torch.zeros(2, 2, 1, dtype=torch.float64)

    def predict(x: Tensor, sigma: Tensor | float) -> Tensor:
        return data.denoise(x, torch.as_tensor(sigma, dtype=torch.float64).expand(len(x)))

    def step(i: int, x: Tensor, noise: Any) -> Tensor:
        return plan.step(State(x), i, predict, cast(Noise, noise)).x.squeeze(2).T

    for i in range(len(plan.orders)):
        matrix = step(i, basis, UnitNoise(still))
        found = matrix @ found @ matrix.T
        for k in (0, 1):
            column = step(i, still, OneDraw(k, basis))
            found = found + column @ column.T
    return found
