"""The Gaussian mixture is exact: golden numbers, Tweedie's formula, moments of its samples."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from gentool.diffusion.grid_rules import karras_sigma
from gentool.diffusion.mixture import GaussianMixture
from gentool.diffusion.processes import Vp


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_golden_eps_and_its_total_derivative_along_the_ode() -> None:
    mixture, x_t = GaussianMixture.triad(), f64(0.3, -0.2).view(1, 2)  # genie.md 8
    t = f64(0.37)
    sigma = Vp().sigma(t)
    assert sigma.item() == pytest.approx(1.7469329610, rel=1e-10)
    x = x_t / Vp().alpha(t)

    def eps(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return (x - mixture.denoise(x, sigma)) / sigma

    value = eps(x, sigma)
    torch.testing.assert_close(value, f64(0.2057296395, -0.3451124421).view(1, 2), rtol=0, atol=1e-10)
    _, derivative = torch.func.jvp(eps, (x, sigma), (value, torch.ones_like(sigma)))
    torch.testing.assert_close(derivative, f64(0.0428609049, -0.0020169442).view(1, 2), rtol=0, atol=1e-10)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 30.0])
def test_denoiser_is_tweedies_formula_on_the_density(sigma: float) -> None:
    mixture = GaussianMixture(torch.randn(7, 3, generator=torch.Generator().manual_seed(2)), [0.1] * 7)
    x = (mixture.sample(16, torch.Generator().manual_seed(0)) * (1 + sigma)).requires_grad_()
    (score,) = torch.autograd.grad(mixture.log_prob(x, sigma).sum(), x)
    expected = x + sigma**2 * score
    torch.testing.assert_close(mixture.denoise(x, f64(sigma)), expected.detach(), rtol=1e-8, atol=1e-8)


def test_density_integrates_to_one() -> None:
    grid = torch.linspace(-6, 6, 601, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    total = GaussianMixture.triad().log_prob(points, 0.3).exp().sum() * (grid[1] - grid[0]) ** 2
    assert total.item() == pytest.approx(1, abs=1e-9)


def test_labels_condition_on_a_component_and_the_null_label_on_nothing() -> None:
    mixture = GaussianMixture.triad()
    x, sigma = mixture.sample(4, torch.Generator().manual_seed(0)), f64(0.5, 1, 2, 4)
    null = torch.full((4,), 3)
    torch.testing.assert_close(mixture.denoise(x, sigma, null), mixture.denoise(x, sigma))
    torch.testing.assert_close(mixture.log_prob(x, sigma, null), mixture.log_prob(x, sigma))
    one = torch.full((4,), 1)
    alone = GaussianMixture([[0.8, 0.9]], [0.25])
    torch.testing.assert_close(mixture.denoise(x, sigma, one), alone.denoise(x, sigma))
    torch.testing.assert_close(mixture.log_prob(x, sigma, one), alone.log_prob(x, sigma))


def test_samples_have_the_mixtures_moments_and_come_from_the_generator() -> None:
    mixture = GaussianMixture.triad()
    x = mixture.sample(40_000, torch.Generator().manual_seed(0))
    assert torch.equal(x, mixture.sample(40_000, torch.Generator().manual_seed(0)))
    weights, means, stds = f64(0.3, 0.45, 0.25), mixture.means, f64(0.35, 0.25, 0.45)
    mean = weights @ means
    variance = weights @ (stds.unsqueeze(1) ** 2 + means**2) - mean**2
    error = 4 / math.sqrt(40_000)
    assert ((x.mean(0) - mean).abs() < error * variance.sqrt()).all()
    assert ((x.var(0) / variance - 1).abs() < 2 * error).all()


def test_a_point_mass_denoises_to_itself_and_shapes_are_kept() -> None:
    data = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    mixture = GaussianMixture(data, [0.0])
    x = torch.zeros(4, 3, 2, 2)
    found = mixture.denoise(x, torch.tensor([0.01, 0.1, 1, 10]))
    assert found.dtype == x.dtype
    torch.testing.assert_close(found, data.expand(4, -1, -1, -1))


def edm_levels(count: int) -> list[float]:
    return karras_sigma(torch.linspace(0, 1, count, dtype=torch.float64), 80.0, 0.002).tolist()


def _heun(count: int, corrected: bool = True) -> float:
    """Output std of EDM's deterministic sampler on N(0, 0.25) from exactly 80 z: it is linear, one start
    suffices."""
    gaussian = GaussianMixture([[0.0]], [0.5])
    levels = [*edm_levels(count), 0.0]
    x = f64(80.0).view(1, 1)

    def slope(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return (x - gaussian.denoise(x, f64(sigma))) / sigma

    for here, there in pairwise(levels):
        d = slope(x, here)
        if corrected and there > 0:
            d = (d + slope(x + (there - here) * d, there)) / 2
        x = x + (there - here) * d
    return x.item()


@pytest.mark.parametrize(
    ("count", "std"), [(5, 1.257886), (9, 0.639060), (18, 0.527625), (40, 0.504877), (100, 0.500720)]
)
def test_heun_on_the_edm_grid_golden(count: int, std: float) -> None:
    assert _heun(count) == pytest.approx(std, abs=1e-6)


def test_euler_on_the_edm_grid_golden() -> None:
    assert _heun(18, corrected=False) == pytest.approx(0.423031, abs=1e-6)


def test_edm_grid_golden() -> None:
    golden = [80, 57.586, 40.786, 28.375, 19.352, 12.910, 8.4009, 5.3152, 3.2568, 1.9233, 1.0882, 0.58535]
    golden += [0.29644, 0.13952, 0.059947, 0.022935, 0.0075280, 0.002]
    assert edm_levels(18) == pytest.approx(golden, rel=5e-5)
    assert edm_levels(5) == pytest.approx([80, 17.5278, 2.51522, 0.169753, 0.002], rel=1e-5)
