"""Small processes and exact denoisers: every test here compares with a closed form, not with a trained
network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gentool.diffusion.predictor import Predictor
from gentool.diffusion.process import Process
from tests.diffusion.heads import known_data, perfect_head


class VP(Process):
    """alpha = exp(-(b t + d t^2/2)/2) with b = 0.1, d = 19.9, t in [1e-3, 1]."""

    name = "vp-test"
    beta_min, beta_d = 0.1, 19.9

    def __init__(self, t_min: float = 1e-3) -> None:
        self.t_min, self.t_max = t_min, 1.0

    def _integral(self, t: Tensor) -> Tensor:
        return self.beta_min * t + self.beta_d * t**2 / 2

    def alpha(self, t: Tensor) -> Tensor:
        return (-self._integral(t) / 2).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return self._integral(t).expm1().sqrt()

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        y = (sigma**2).log1p()
        return 2 * y / ((self.beta_min**2 + 2 * self.beta_d * y).sqrt() + self.beta_min)

    def dlog_alpha(self, t: Tensor) -> Tensor:
        return -(self.beta_min + self.beta_d * t) / 2

    def dsigma(self, t: Tensor) -> Tensor:
        return (self.beta_min + self.beta_d * t) * self._integral(t).exp() / (2 * self.sigma(t))

    @property
    def sigma_min(self) -> float:
        return float(self.sigma(torch.tensor(self.t_min, dtype=torch.float64)))

    @property
    def sigma_max(self) -> float:
        return float(self.sigma(torch.tensor(self.t_max, dtype=torch.float64)))

    @property
    def prior_std(self) -> float:
        return math.sqrt(1 + self.sigma_max**2)


class EDM(Process):
    """alpha = 1, sigma = t in [0.002, 80]."""

    name = "edm-test"
    t_min, t_max = 0.002, 80.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        return sigma

    def dlog_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def dsigma(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    @property
    def sigma_min(self) -> float:
        return self.t_min

    @property
    def sigma_max(self) -> float:
        return self.t_max

    @property
    def prior_std(self) -> float:
        return self.t_max


class Ddpm(Process):
    """1000 discrete levels, betas linspace(1e-4, 0.02); t = (n + 1)/1000, ln alpha piecewise linear,
    alpha(0) = 1."""

    name = "ddpm-test"
    t_min, t_max = 1e-3, 1.0

    def __init__(self) -> None:
        beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        log_alpha = (1 - beta).log().cumsum(0) / 2
        self.knots = torch.cat([torch.zeros(1, dtype=torch.float64), log_alpha])

    def _log_alpha(self, t: Tensor) -> Tensor:
        place = (t * 1000).clamp(0, 1000)
        n = place.floor().long().clamp(max=999)
        return self.knots[n] + (place - n) * (self.knots[n + 1] - self.knots[n])

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-2 * self._log_alpha(t)).expm1().sqrt()

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        log_alpha = -(sigma**2).log1p() / 2
        n = (torch.searchsorted(-self.knots, -log_alpha, right=True) - 1).clamp(0, 999)
        return (n + (log_alpha - self.knots[n]) / (self.knots[n + 1] - self.knots[n])) / 1000

    def dlog_alpha(self, t: Tensor) -> Tensor:
        n = (t * 1000).floor().long().clamp(0, 999)
        return 1000 * (self.knots[n + 1] - self.knots[n])

    def dsigma(self, t: Tensor) -> Tensor:
        return -self.dlog_alpha(t) * (1 + self.sigma(t) ** 2) / self.sigma(t)

    @property
    def sigma_min(self) -> float:
        return float(self.sigma(torch.tensor(self.t_min, dtype=torch.float64)))

    @property
    def sigma_max(self) -> float:
        return float(self.sigma(torch.tensor(self.t_max, dtype=torch.float64)))

    @property
    def prior_std(self) -> float:
        return math.sqrt(1 + self.sigma_max**2)


MEANS = torch.tensor([[-1.0, 0.5], [0.8, 0.9], [0.3, -1.1]], dtype=torch.float64)
STDS = torch.tensor([0.35, 0.25, 0.45], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, 0.45, 0.25], dtype=torch.float64)


def mixture(x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
    """E[x0 | x] of the 2-D mixture; x (B, 2), sigma (B,)."""
    x64 = x.double()
    var = STDS**2 + sigma.double()[:, None] ** 2
    offset = x64[:, None] - MEANS
    logit = WEIGHTS.log() - var.log() - offset.square().sum(-1) / (2 * var)
    eps = (logit.softmax(-1)[..., None] * offset / var[..., None]).sum(1)
    return (x64 - sigma.double()[:, None] ** 2 * eps).to(x.dtype)


Exact = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def gaussian(std: float, mean: float = 0.0) -> Exact:
    """E[x0 | x] of N(mean, std^2) data in any shape."""

    def denoise(x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        var = sigma.view(-1, *[1] * (x.dim() - 1)).to(x.dtype) ** 2
        return mean + std**2 / (std**2 + var) * (x - mean)

    return denoise


def exact(denoise: Exact, **options: Any) -> Predictor:
    """A float64 predictor of an exact denoiser, with a perfect head and the variances of known data."""
    return Predictor(
        denoise, derive=perfect_head(denoise), spread=known_data(denoise), dtype=torch.float64, **options
    )


def starts(process: Process, count: int = 64) -> Tensor:
    """The canonical starts: x_1 = randn(64, 2) from seed 1, divided by alpha."""
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x[:count] / process.alpha(torch.tensor(process.t_max, dtype=torch.float64))


def starts_from(process: Process, count: int, seed: int = 1, shape: tuple[int, ...] = (2,)) -> Tensor:
    """prior_std * N(0, 1), (count, *shape)."""
    z = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z * process.prior_std
