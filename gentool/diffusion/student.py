"""PFGM++'s noise: the perturbation kernel of N data dimensions with D extra ones (arXiv 2302.04265).

p_r(x | x0) ~ (|x - x0|^2 + r^2)^(-(N + D)/2) with r = sigma sqrt(D) (the paper's eq. 4 and section 4) is the N-variate
Student t distribution with D degrees of freedom and scale sigma about x0: x = x0 + sigma eps sqrt(D / c),
eps ~ N(0, I), c ~ chi2_D once for each sample. So it is drawn for any real D > 0 and any N; D -> infinity is EDM's
Gaussian. The ODE in sigma is EDM's, dx/dsigma = (x - D(x, sigma))/sigma with D(x, sigma) = E[x0 | x], and so are the
preconditioning, the law of sigma and the weight.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import gammaincinv
from torch import Tensor

from gentool.noise import Noise

LEAST_CHI2 = 1e-12
"""Below D = 2 a chi2 may underflow to 0, and the noise with it to infinity."""


def radial_factors(count: int, draws: int, dims: float, generator: torch.Generator) -> Tensor:
    """(count, draws) float64 factors sqrt(D / chi2_D) on Gaussian noise, on the generator's device."""
    shape = torch.full((count, draws), dims / 2, dtype=torch.float64, device=generator.device)
    chi2 = 2 * torch._standard_gamma(shape, generator=generator)
    return (dims / chi2.clamp(min=LEAST_CHI2)).sqrt()


def prior_factors(dims: float, noise: Noise) -> Tensor:
    """(B,) float64 factors of the prior by counter, by the inverse of chi2's distribution function: a sample's
    factor depends on nothing but the seed and its index."""
    chi2 = 2 * gammaincinv(dims / 2, noise.uniform("radius").numpy())
    return torch.from_numpy(np.sqrt(dims / np.maximum(chi2, LEAST_CHI2)))


def log_density(x: Tensor, sigma: float, dims: float) -> Tensor:
    """(B,) log density of the noise itself at x (B, ...), in nats: the prior of the likelihood's ODE."""
    flat = x.flatten(1)
    n = flat.shape[1]
    constant = (
        math.lgamma((n + dims) / 2) - math.lgamma(dims / 2) - n / 2 * math.log(math.pi * dims * sigma**2)
    )
    return constant - (n + dims) / 2 * torch.log1p(flat.square().sum(1) / (dims * sigma**2))
