"""Models whose denoiser is known in closed form, and the two smallest solvers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from gentool.diffusion.predictor import Guidance, Predictor


@dataclass(frozen=True)
class Gaussian:
    """x0 ~ N(mean, std^2) in each of the state's values."""

    mean: float
    std: float

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma.view(-1, *[1] * (x.dim() - 1)).square()
        return (x * self.std**2 + self.mean * s) / (self.std**2 + s)


@dataclass(frozen=True)
class Mixture:
    """Classes N(means[k], std^2 I) of equal weight; the null label `len(means)` is all of them."""

    means: Tensor
    std: float

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        classes = len(self.means)
        s, v = sigma.square()[:, None], self.std**2
        distance = (x[:, None] - self.means).square().sum(-1)
        logits = -distance / (2 * (s + v))
        if label is not None:
            other = torch.arange(classes) != label[:, None]
            logits = torch.where(other & (label < classes)[:, None], -torch.inf, logits)
        mean = (torch.softmax(logits, 1)[..., None] * self.means).sum(1)
        return (x * v + mean * s) / (s + v)


def mixture(classes: int = 8, dim: int = 16, std: float = 0.5) -> Mixture:
    means = torch.randn(classes, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Mixture(means, std)


def states(count: int, dim: int = 16, seed: int = 1) -> Tensor:
    return torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def karras(steps: int, low: float = 0.002, high: float = 80.0) -> list[float]:
    """steps + 1 noise levels, the last 0."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigma = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    return [*sigma.tolist(), 0.0]


def euler(predict: Predictor, x: Tensor, grid: list[float]) -> Tensor:
    for a, b in pairwise(grid):
        d = predict(x, a)
        x = d + (x - d) * (b / a)
    return x


def heun(predict: Predictor, x: Tensor, grid: list[float]) -> Tensor:
    for a, b in pairwise(grid):
        slope = (x - predict(x, a)) / a
        to = x + (b - a) * slope
        if b > 0:
            slope = (slope + (to - predict(to, b)) / b) / 2
            to = x + (b - a) * slope
        x = to
    return x


def predictor(network: Mixture, guidance: Guidance | None, label: Tensor | None) -> Predictor:
    """In float64, so that closed forms are met to 1e-12."""
    return Predictor(network, guidance=guidance, label=label, dtype=torch.float64)
