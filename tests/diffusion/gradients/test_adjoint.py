"""The references: where the continuous adjoint tends, where it differs, and what can be walked back."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gentool.diffusion.config import VpProcess
from gentool.diffusion.convert import per_sample
from gentool.diffusion.gradients.adjoint import (
    Drift,
    continuous_adjoint,
    diffusion,
    flow,
    reverse_drift,
    solve,
)
from gentool.diffusion.gradients.check import agreement
from gentool.diffusion.gradients.reversible import Heun, reversible_heun
from gentool.diffusion.mixture import GaussianMixture
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.processes import build
from gentool.noise import Noise

VP = build(VpProcess())
GAUSSIAN = GaussianMixture([[0.0]], [0.5])
TRIAD = GaussianMixture.triad()


def predictor(law: GaussianMixture) -> Predictor:
    return Predictor(law.denoise, dtype=torch.float64)


def increments(steps: int, span: float, count: int = 4, dims: int = 1) -> Callable[[int], Tensor]:
    noise = Noise(0, range(count), (dims,), dtype=torch.float64)
    return lambda i: math.sqrt(span / steps) * noise.normal("w", i)


def linear(start: float, end: float, steps: int) -> list[float]:
    return torch.linspace(start, end, steps + 1, dtype=torch.float64).tolist()


def gaussian_adjoint(steps: int, nu: float) -> float:
    """d purified / d input by the adjoint at t* = 0.1, Gaussian data of standard deviation 0.5."""
    drift, g = reverse_drift(predictor(GAUSSIAN), VP, nu), diffusion(VP, nu)
    times, dw = linear(0.1, 1e-5, steps), increments(steps, 0.1 - 1e-5)
    x = torch.full((4, 1), 0.3, dtype=torch.float64)
    end = solve(drift, times, x, g=g, dw=dw)
    a, _, _ = continuous_adjoint(drift, times, end, torch.ones_like(x), g=g, dw=dw)
    return float(a[0]) * VP.alpha(torch.tensor(0.1, dtype=torch.float64)).item()


@pytest.mark.parametrize(("nu", "limit", "exact"), [(1.0, 0.683583, 0.681447), (0.0, 0.826791, 0.825879)])
def test_the_adjoint_tends_to_the_limit_and_is_not_the_samplers_gradient(
    nu: float, limit: float, exact: float
) -> None:
    coarse, fine = gaussian_adjoint(100, nu), gaussian_adjoint(800, nu)
    assert abs(fine - limit) < abs(coarse - limit) / 6  # first order: an eighth
    assert abs(fine - limit) < 1e-3
    assert abs(coarse - exact) > 5e-4


@pytest.mark.parametrize("method", ["euler", "midpoint"])
def test_orders_of_the_adjoint_on_a_curved_flow(method: str) -> None:
    """Against autograd through a fine solve of the same flow: first and second order."""
    drift = flow(predictor(TRIAD))
    x = torch.tensor([[1.5, -0.4], [-2.0, 1.0]], dtype=torch.float64, requires_grad=True)

    def levels(steps: int) -> list[float]:
        return torch.logspace(0.5, -0.5, steps + 1, dtype=torch.float64).tolist()

    (truth,) = torch.autograd.grad(solve(drift, levels(1600), x, method="midpoint").sin().sum(), x)
    errors = []
    for steps in (40, 80):
        end = solve(drift, levels(steps), x.detach(), method=method)  # type: ignore[arg-type]
        a, _, _ = continuous_adjoint(drift, levels(steps), end, end.cos(), method=method)  # type: ignore[arg-type]
        errors.append(agreement(a, truth).error)
    order = math.log2(errors[0] / errors[1])
    assert order == pytest.approx(1 if method == "euler" else 2, abs=0.4)


def trained_like() -> tuple[nn.Module, Drift]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    return net, lambda x, s: (1 + s) * net(x)


def test_gradients_to_weights_are_integrated_too() -> None:
    net, drift = trained_like()
    weight = net[0].weight  # type: ignore[index]
    x, times = torch.ones(3, 2, dtype=torch.float64), linear(1.0, 0.2, 400)
    end = solve(drift, times, x, method="midpoint")
    (plain,) = torch.autograd.grad(end.square().sum(), weight)
    _, (found,), _ = continuous_adjoint(drift, times, end, 2 * end.detach(), wrt=[weight], method="midpoint")
    assert agreement(found, plain).error < 1e-5
    with pytest.raises(ValueError, match="sequence"):
        continuous_adjoint(drift, times, end, end, wrt=weight)


def test_euler_in_sigma_is_ddim_step_for_step() -> None:
    """x' = (alpha'/alpha) x + (std' - std alpha'/alpha) eps in the process's own variable: AdjointDPM's y and rho."""
    times = torch.linspace(1, 0.01, 12, dtype=torch.float64)
    alpha, sigma, std = VP.alpha(times), VP.sigma(times), VP.std(times)
    x = torch.tensor([[0.7, -1.2]], dtype=torch.float64)
    canonical = solve(flow(predictor(TRIAD)), sigma.tolist(), x / alpha[0])
    for i in range(11):
        y = x / alpha[i]
        eps = (y - TRIAD.denoise(y, sigma[i : i + 1])) / per_sample(sigma[i : i + 1], y)
        ratio = alpha[i + 1] / alpha[i]
        x = ratio * x + (std[i + 1] - std[i] * ratio) * eps
    assert torch.allclose(alpha[-1] * canonical, x, rtol=1e-9)


def test_time_of_rho_is_the_inverse() -> None:
    t = torch.tensor([1e-3, 0.1, 0.5, 1.0], dtype=torch.float64)
    end = VP.alpha(t[-1:]) * VP.sigma(t[-1:])
    rho = VP.alpha(t[-1:]) * VP.sigma(t) - end
    assert torch.allclose(VP.t_of_sigma((rho + end) / VP.alpha(t[-1:])), t, atol=1e-9)


def test_a_constant_eps_is_solved_exactly() -> None:
    """In any number of steps; the gradient in x_T is alpha_0/alpha_T, which is 1 in the canonical state."""
    for steps in (1, 7):
        sigma = VP.sigma(torch.linspace(1, 0.1, steps + 1, dtype=torch.float64)).tolist()
        x = torch.full((2, 3), 0.4, dtype=torch.float64)
        found = solve(lambda x, s: 0.3 + 0 * x, sigma, x)
        assert torch.allclose(found, x + 0.3 * (sigma[-1] - sigma[0]), rtol=1e-12)
        a, _, _ = continuous_adjoint(lambda x, s: 0.3 + 0 * x, sigma, found, torch.ones_like(x))
        assert torch.equal(a, torch.ones_like(x))


def heun(steps: int, noisy: bool) -> tuple[nn.Module, Heun]:
    net, drift = trained_like()
    dw = increments(steps, 0.8, count=3, dims=2)
    return net, Heun(
        drift, linear(1.0, 0.2, steps), (lambda s: 0.5 * s) if noisy else None, dw if noisy else None
    )


def test_reversible_heun_walks_back() -> None:
    _, solver = heun(100, noisy=True)
    x = torch.tensor([[0.5, -1.0], [1.0, 0.2], [-0.3, 0.4]], dtype=torch.float64)
    pair = (x, x)
    with torch.no_grad():
        for i in range(100):
            pair = solver.forth(pair, i)
        assert float((pair[0] - x).abs().max()) > 0.1
        for i in reversed(range(100)):
            pair = solver.back(pair, i)
    assert all(torch.allclose(v, x, rtol=0, atol=1e-10) for v in pair)


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("steps", [24, 99])
def test_reversible_heun_has_its_own_exact_gradient(steps: int, noisy: bool) -> None:
    net, solver = heun(steps, noisy)
    x = torch.tensor([[0.5, -1.0], [1.0, 0.2], [-0.3, 0.4]], dtype=torch.float64, requires_grad=True)
    weight = net[0].weight  # type: ignore[index]
    pair = (x, x)
    for i in range(steps):
        pair = solver.forth(pair, i)
    plain = torch.autograd.grad(pair[0].sin().sum(), (x, weight))
    ours = torch.autograd.grad(reversible_heun(solver, x, [weight]).sin().sum(), (x, weight))
    for found, known in zip(ours, plain, strict=True):
        assert agreement(found, known).error < 1e-9


def test_reversible_heun_is_of_second_order_without_noise() -> None:
    def end(steps: int) -> Tensor:
        return reversible_heun(heun(steps, noisy=False)[1], torch.ones(1, 2, dtype=torch.float64)).detach()

    truth = end(4000)
    errors = [float((end(n) - truth).norm()) for n in (25, 50)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.3)
