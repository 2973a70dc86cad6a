"""Classifier guidance in its ancestral form: the mean of a step moves by its variance times the gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gentool.diffusion.grids import Grid, make_grid
from gentool.diffusion.guidance.classifier import Classifier, StepGain
from gentool.diffusion.guidance.compose import compose
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.process import Process
from gentool.diffusion.processes import Ddpm as DdpmProcess
from gentool.diffusion.processes import Edm, Vp
from gentool.diffusion.solvers.core import State
from gentool.diffusion.solvers.integrate import integrate
from gentool.diffusion.solvers.stochastic import Ancestral, Ddim, Ddpm, mean_gains
from gentool.noise import Noise

Y, TAU = 1.5, 0.6
F64 = torch.float64


def denoise(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
    """Exact for data N(0, 1)."""
    return x / (1 + sigma.square())[:, None]


def log_prob(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
    """log p(y | x) for y = x0 + tau n: x0 given x is N(D, s^2), s^2 = sigma^2 / (1 + sigma^2)."""
    s2 = sigma.square() / (1 + sigma.square())
    return -0.5 * ((Y - denoise(x, sigma, None)).square().sum(1) / (s2 + TAU**2))


def predictor(
    solver: Ancestral, grid: Grid, process: Process, scale: float, form: str, count: int
) -> Predictor:
    rule = Classifier(scale, log_prob)
    if form == "mean":
        rule = Classifier(scale, log_prob, StepGain(grid.sigma[:-1], mean_gains(solver, grid, process)))
    label = torch.zeros(count, dtype=torch.int64)
    return Predictor(denoise, guidance=compose([rule]), label=label, dtype=F64)


@pytest.mark.parametrize("process", [Vp(), DdpmProcess(), Edm(0.002, 80.0)], ids=lambda p: p.name)
@pytest.mark.parametrize("solver", [Ddpm(), Ddpm("large"), Ddim(eta=1.0), Ddim(eta=0.5)], ids=str)
def test_a_step_moves_by_its_variance_times_the_gradient_in_the_papers_variables(
    process: Process, solver: Ancestral
) -> None:
    """mu + w Sigma grad_{x_t} log p(y | x_t), with Sigma and the gradient measured, not taken from the rows."""
    grid = make_grid("log-snr", 7, process)
    plan = solver.prepare(grid, process)
    x = torch.randn(500, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    noise = Noise(0, range(500), (1,), dtype=F64)
    for i in (0, 3, 5):
        sigma, alpha = grid.sigma, process.alpha(grid.t)
        state = State(x * sigma[i])
        plain, guided = (
            plan.step(state, i, predictor(solver, grid, process, w, "mean", 500), noise).x for w in (0.0, 2.0)
        )
        # the same state with every sample's own noise and without: the spread is Sigma
        same = plan.step(
            State(state.x[:1].expand(500, 1)), i, predictor(solver, grid, process, 0.0, "mean", 500), noise
        ).x
        variance = float((alpha[i + 1] * same).var())
        xt = (alpha[i] * state.x).requires_grad_()
        value = log_prob(xt / alpha[i], sigma[i].expand(500), torch.zeros(500)).sum()
        (gradient,) = torch.autograd.grad(value, xt)
        moved = alpha[i + 1] * (guided - plain)
        ratio = moved / (2.0 * gradient)
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
        assert float(ratio[0]) == pytest.approx(variance, rel=0.2)  # 500 draws: 6 %


def test_the_steps_variance_is_exact_in_the_gains() -> None:
    process = Vp()
    grid = make_grid("log-snr", 9, process)
    sigma, alpha = grid.sigma, process.alpha(grid.t)
    s, t = sigma[:-1], sigma[1:]
    posterior = (alpha[1:] * t).square() * (1 - (t / s).square())  # of x'_t given x_t and x0
    shift_of_x0 = alpha[1:] * (1 - (t / s).square())  # d mean(x'_t) / d x0
    expected = posterior / alpha[:-1] / shift_of_x0
    torch.testing.assert_close(mean_gains(Ddpm(), grid, process), expected)
    assert mean_gains(Ddpm(), make_grid("karras", 5, process), process)[-1] == 0  # the step to 0 has no noise


def test_both_forms_agree_as_steps_shrink() -> None:
    gaps = []
    for steps in (50, 100, 200):
        grid = make_grid("log-snr", steps, Vp())
        gains = mean_gains(Ddpm(), grid, Vp())
        gaps.append(float((gains / grid.sigma[:-1].square() - 1).abs().max()))
    assert gaps[0] > 1.8 * gaps[1] > 3.2 * gaps[2]  # first order in the step


class Silence(Noise):
    """No noise: what is linear then follows its mean."""

    def _draw(self, stream: str, step: int) -> Tensor:
        return torch.zeros(len(self.indices), *self.shape)


@pytest.mark.parametrize("form", ["score", "mean"])
def test_the_mean_of_the_samples_tends_to_the_posteriors(form: str) -> None:
    """Data N(0, 1), y = x0 + tau n: samples have the mean y / (1 + tau^2), and all is linear in the state."""
    errors = []
    for steps in (100, 200, 400):
        process, solver, noise = Vp(), Ddpm(), Silence(0, range(1), (1,), dtype=F64)
        grid = make_grid("log-snr", steps, process)
        predict = predictor(solver, grid, process, 1.0, form, 1)
        x = integrate(predict, process, solver, grid, noise.normal("prior"), noise).x
        errors.append(abs(float(x) - Y / (1 + TAU**2)))
    assert errors[2] < 0.03
    if form == "mean":
        assert errors[0] > 1.7 * errors[1] > 2.8 * errors[2]  # first order in the step
    else:
        assert max(errors) < 1e-4  # exact for Gaussians, but for the ends of the grid
