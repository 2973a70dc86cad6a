"""Learned variances: the bound against closed forms of normal data, the steps against the exact marginals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from gentool.diffusion.denoiser import Denoiser
from gentool.diffusion.grids import make_grid
from gentool.diffusion.loss import DiffusionLoss, eps_weight
from gentool.diffusion.precond import VpEps
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.processes import Ddpm
from gentool.diffusion.solvers.core import Solver
from gentool.diffusion.solvers.core import build as solver_named
from gentool.diffusion.solvers.integrate import integrate
from gentool.diffusion.times import Discrete
from gentool.diffusion.variational import VariationalTerms, hybrid, log_pixel, variance_bounds
from tests.parity.fixed import Given

C2 = 0.04
"""Variance of the normal data, which leave [-1, 1] once in a million."""


def normal(count: int) -> Tensor:
    """Quantiles of N(0, 1) of equal weight."""
    z = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    return z / z.square().mean().sqrt()


def exact_v(small: Tensor, large: Tensor, sigma_s: Tensor, sigma_t: Tensor) -> Tensor:
    """Where the true variance of x_t given x_s lies, in the canonical state: that of the posterior, and of x0's own."""
    left = C2 * sigma_s**2 / (C2 + sigma_s**2)
    true = sigma_t**2 * (1 - (sigma_t / sigma_s) ** 2) + (1 - (sigma_t / sigma_s) ** 2) ** 2 * left
    return 2 * (true / small).log() / (large / small).log() - 1


@pytest.mark.parametrize("mean", [-3.0, -1.0, -0.4, 0.9999, 1.5])
@pytest.mark.parametrize("std", [1e-3, 0.01, 0.3, 5.0])
def test_the_shares_of_all_pixels_sum_to_one(mean, std):
    pixels = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).requires_grad_()
    log = log_pixel(pixels, torch.tensor(mean), torch.tensor(std))
    assert log.exp().sum().item() == pytest.approx(1, abs=1e-9)
    (gradient,) = torch.autograd.grad(log.sum(), pixels)
    assert gradient.isfinite().all()


def bound(process: Ddpm, v: Tensor | float | Literal["exact"]) -> float:
    """Bits per value of the whole chain for N(0, C2) data, with the exact prediction of x0."""
    t = torch.arange(process.levels + 1, dtype=torch.float64) / process.levels
    sigma, alpha = process.sigma(t), process.alpha(t)
    terms = VariationalTerms(process)
    at = exact_v(terms.log_small.exp(), terms.log_large.exp(), sigma[1:], sigma[:-1])
    x0 = ((normal(256) * math.sqrt(C2) + 1) * 127.5).round() / 127.5 - 1
    total = 0.0
    for n in range(process.levels):
        x = x0[:, None] + sigma[n + 1] * normal(32)
        values = x0[:, None].expand_as(x).reshape(1, -1)
        prediction = (C2 / (C2 + sigma[n + 1] ** 2) * x).view(1, -1)
        given = at[n] if v == "exact" else v
        total += terms(values, prediction, given * torch.ones_like(values), torch.tensor([n])).item()
    mean2, var = alpha[-1] ** 2 * x0.square().mean(), 1 - alpha[-1] ** 2
    return total + (0.5 * (mean2 + var - 1 - var.log())).item() / math.log(2)


def test_the_bound_of_the_exact_chain_is_the_entropy_of_the_data():
    """Normal data have normal reverse steps: with their means and variances nothing is lost."""
    process = Ddpm(levels=24, beta_max=0.6)
    entropy = 0.5 * math.log2(2 * math.pi * math.e * C2) + math.log2(127.5)
    assert bound(process, "exact") == pytest.approx(entropy, abs=5e-3)


@pytest.mark.parametrize("v", [-1.0, 1.0])
def test_neither_end_of_the_range_is_as_good_as_the_variance_itself(v):
    process = Ddpm(levels=24, beta_max=0.6)
    assert bound(process, v) > bound(process, "exact") + 0.02


class Exact:
    """The exact prediction and variance for N(0, C2) data, for the steps of one grid."""

    def __init__(self, sigma: Tensor, alpha: Tensor) -> None:
        small, large = variance_bounds(sigma[:-1], sigma[1:], alpha[:-1], alpha[1:])
        self.v = dict(zip(sigma.tolist(), exact_v(small, large, sigma[:-1], sigma[1:]).tolist()))

    def denoise(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        return C2 / (C2 + sigma.view(-1, 1) ** 2) * x

    def spread(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        v = self.v[sigma[0].item()]
        return self.denoise(x, sigma, label), torch.full_like(x, v)


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_exact_variances_keep_the_marginals_in_any_number_of_steps(steps):
    """The steps are linear: the variance of their end is the sum of squares of what each unit of noise leaves there."""
    process = Ddpm()
    grid = make_grid("uniform-t", steps, process, final="t-min")
    exact = Exact(grid.sigma, process.alpha(grid.t))

    def variance(solver: Solver) -> float:
        start = torch.zeros(steps + 1, 1, dtype=torch.float64)
        start[0] = (C2 + grid.sigma[0] ** 2).sqrt()
        units = [torch.eye(steps + 1, dtype=torch.float64)[:, i + 1 : i + 2] for i in range(steps)]
        predict = Predictor(exact.denoise, spread=exact.spread, dtype=torch.float64)
        return float(integrate(predict, process, solver, grid, start, Given(*units)).x.square().sum())

    true = C2 + float(grid.sigma[-1]) ** 2
    assert variance(solver_named("ddpm-learned")) == pytest.approx(true, rel=1e-9)
    fixed = [variance(solver_named("ddpm", {"variance": name})) for name in ("small", "large")]
    assert fixed[0] < 0.98 * true < 1.02 * true < fixed[1]


class Two(nn.Module):
    """Two outputs of a pixel, each with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(0.2))

    def forward(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        return torch.cat([self.mean * x, self.spread * x.cos()], 1)


def test_the_bound_teaches_the_variances_alone():
    process, net = Ddpm(levels=10), Two()
    denoiser = Denoiser(net, VpEps(process), process, variances=True)
    simple = DiffusionLoss(Discrete(process), eps_weight)
    torch.manual_seed(0)
    x0, u, noise = torch.rand(5, 1, 4, 4) * 2 - 1, torch.rand(5, 2).double(), torch.randn(5, 2, 1, 4, 4)

    def gradients(loss: Callable[..., Tensor]) -> list[Tensor]:
        net.zero_grad(set_to_none=False)
        loss(denoiser, x0, None, None, u, noise).mean().backward()
        return [p.grad.clone() for p in (net.mean, net.spread)]

    plain, both = gradients(simple), gradients(hybrid(simple, process, 0.001))
    torch.testing.assert_close(both[0], plain[0])
    assert plain[1] == 0
    assert both[1] != 0


def test_examples_losses_have_gradients_of_their_own_under_vmap():
    process, net = Ddpm(levels=10), Two()
    loss = hybrid(DiffusionLoss(Discrete(process), eps_weight), process, 0.001)
    denoiser = Denoiser(net, VpEps(process), process, variances=True)
    torch.manual_seed(0)
    rows = torch.rand(3, 1, 4, 4) * 2 - 1, torch.rand(3, 2).double(), torch.randn(3, 2, 1, 4, 4)

    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.denoiser = denoiser

        def forward(self, x0: Tensor, u: Tensor, noise: Tensor) -> Tensor:
            return loss(self.denoiser, x0, None, None, u, noise).sum()

    caller = Caller()
    weights = dict(caller.named_parameters())

    def one(weights: dict[str, Tensor], *row: Tensor) -> Tensor:
        return torch.func.functional_call(caller, weights, tuple(v.unsqueeze(0) for v in row))

    each = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0, 0))(weights, *rows)
    whole = torch.autograd.grad(caller(*rows), list(weights.values()))
    for name, total in zip(weights, whole, strict=True):
        torch.testing.assert_close(each[name].sum(0), total, rtol=1e-4, atol=1e-4)
        assert each[name].unique().numel() == 3
