"""Likelihood by the probability-flow ODE against closed forms, its invariances, and bits per dimension."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gentool.diffusion.denoiser import Denoiser
from gentool.diffusion.likelihood import bits_per_dim, dequantise, log_likelihood
from gentool.diffusion.mixture import GaussianMixture
from gentool.diffusion.precond import Edm as EdmPrecond
from gentool.diffusion.process import Process
from gentool.diffusion.processes import Edm, Flow, Vp
from gentool.errors import GentoolError
from gentool.noise import Noise

TRIAD = GaussianMixture.triad()
X = TRIAD.sample(12, torch.Generator().manual_seed(0))


def draws(count: int, *shape: int, first: int = 0, seed: int = 0) -> Noise:
    return Noise(seed, range(first, first + count), shape)


@pytest.mark.parametrize("method", ["rk45", "heun"])
@pytest.mark.parametrize("std", [0.5, 0.8])
def test_gaussian_data_within_a_thousandth_nat_per_dimension(method: str, std: float) -> None:
    gaussian = GaussianMixture([[0.1, -0.2, 0.0]], [std])
    x = gaussian.sample(16, torch.Generator().manual_seed(1))
    found = log_likelihood(
        gaussian.denoise,
        Edm(),
        x,
        draws(16, 3),
        method=method,
        steps=160,
        prior=lambda z: gaussian.log_prob(z, 80.0),
    )
    assert ((found.log_prob - gaussian.log_prob(x, 0.002)).abs() / 3).max() < 1e-3


@pytest.mark.parametrize("process", [Edm(), Vp(), Flow()], ids=lambda p: p.name)
def test_rk45_on_the_mixture_under_every_process(process: Process) -> None:
    found = log_likelihood(
        TRIAD.denoise, process, X, draws(12, 2), prior=lambda z: TRIAD.log_prob(z, process.sigma_max)
    )
    exact = TRIAD.log_prob(X, process.train_sigma_min)
    assert (found.log_prob - exact).abs().max() < 1e-3
    assert found.nfe.max() < 150


def test_the_processes_own_prior_costs_only_the_data_it_ignores() -> None:
    """KL of the true marginal at sigma 80 from N(0, 80^2): about |x0|^2/80^2."""
    found = log_likelihood(TRIAD.denoise, Edm(), X, draws(12, 2))
    assert (found.log_prob - TRIAD.log_prob(X, 0.002)).abs().max() < 0.05


def test_heun_converges_with_order_two() -> None:
    def error(steps: int) -> float:
        found = log_likelihood(
            TRIAD.denoise,
            Edm(),
            X,
            draws(12, 2),
            method="heun",
            steps=steps,
            prior=lambda z: TRIAD.log_prob(z, 80.0),
        )
        assert found.nfe.tolist() == [2.0 * (steps - 1)] * 12
        return (found.log_prob - TRIAD.log_prob(X, 0.002)).square().mean().sqrt().item()

    assert math.log2(error(80) / error(160)) == pytest.approx(2, abs=0.2)


def test_latent_is_the_ode_started_at_the_data() -> None:
    gaussian = GaussianMixture([[0.0, 0.0]], [0.6])
    found = log_likelihood(gaussian.denoise, Edm(), X, draws(12, 2), tolerance=1e-8)
    torch.testing.assert_close(
        found.latent, X * math.hypot(80, 0.6) / math.hypot(0.002, 0.6), rtol=1e-6, atol=0
    )


def test_hutchinson_is_exact_for_isotropic_jacobians_and_unbiased_otherwise() -> None:
    gaussian = GaussianMixture(torch.zeros(1, 2, 3), [0.7])
    x = gaussian.sample(4, torch.Generator().manual_seed(1))
    exact = log_likelihood(gaussian.denoise, Edm(), x, draws(4, 2, 3)).log_prob
    probed = log_likelihood(gaussian.denoise, Edm(), x, draws(4, 2, 3), exact_dims=0).log_prob
    torch.testing.assert_close(probed, exact, rtol=0, atol=1e-3)

    many = X[:1].expand(400, -1)
    exact = log_likelihood(TRIAD.denoise, Edm(), X[:1], draws(1, 2), method="heun", steps=20).log_prob
    probed = log_likelihood(
        TRIAD.denoise, Edm(), many, draws(400, 2), method="heun", steps=20, exact_dims=0, probes=2
    ).log_prob
    assert probed.std() > 0.01, "probes matter here"
    assert abs(probed.mean() - exact).item() < 4 * probed.std().item() / 20


@pytest.mark.parametrize("exact_dims", [0, 128])
def test_a_sample_does_not_depend_on_its_batch(exact_dims: int) -> None:
    process = Edm(0.002, 1.0)  # ends where the Jacobian still matters when faster samples are done
    whole = log_likelihood(TRIAD.denoise, process, X, draws(12, 2), exact_dims=exact_dims)
    alone = [
        log_likelihood(TRIAD.denoise, process, X[i : i + 1], draws(1, 2, first=i), exact_dims=exact_dims)
        for i in range(12)
    ]
    assert len(set(whole.nfe.tolist())) > 1
    torch.testing.assert_close(torch.cat([a.log_prob for a in alone]), whole.log_prob, rtol=0, atol=1e-9)
    assert torch.equal(torch.cat([a.nfe for a in alone]), whole.nfe)


def test_scaling_data_and_sigma_together_changes_only_the_jacobian() -> None:
    c = 3.0
    scaled = GaussianMixture(c * TRIAD.means, c * TRIAD.variances.sqrt(), TRIAD.log_weights.exp())
    plain = log_likelihood(TRIAD.denoise, Edm(), X, draws(12, 2), tolerance=1e-7).log_prob
    other = log_likelihood(
        scaled.denoise, Edm(0.002 * c, 80 * c), c * X, draws(12, 2), tolerance=1e-7, data_std=0.5 * c
    ).log_prob
    torch.testing.assert_close(other + 2 * math.log(c), plain, rtol=0, atol=1e-6)


def test_labels_follow_their_samples_through_adaptive_steps() -> None:
    label = torch.arange(12) % 4  # 3 is the null label
    found = log_likelihood(
        TRIAD.denoise, Edm(), X, draws(12, 2), label=label, prior=lambda z: TRIAD.log_prob(z, 80.0, label)
    )
    assert (found.log_prob - TRIAD.log_prob(X, 0.002, label)).abs().max() < 2e-3


class Net(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None, augment: Tensor | None) -> Tensor:
        return self.conv(x).tanh() * c_noise.cos().view(-1, 1, 1, 1)


def test_float32_network_inside_no_grad_with_more_dimensions_than_exact() -> None:
    """Both methods and precisions of one network agree: no gradient context or rounding gets in."""
    denoiser = Denoiser(Net(), EdmPrecond(0.5), Edm()).eval()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3)) / 2
    with torch.no_grad():
        adaptive = log_likelihood(denoiser, Edm(), x, draws(2, 3, 8, 8))
        fixed = log_likelihood(denoiser, Edm(), x, draws(2, 3, 8, 8), method="heun", steps=200)
    double = log_likelihood(denoiser.double(), Edm(), x, draws(2, 3, 8, 8))
    assert adaptive.latent.shape == x.shape
    assert ((adaptive.log_prob - fixed.log_prob).abs() / 192).max() < 1e-3
    assert ((adaptive.log_prob - double.log_prob).abs() / 192).max() < 1e-4


@pytest.mark.parametrize("method", ["rk45", "heun"])
def test_a_network_that_is_not_finite_is_an_error(method: str) -> None:
    def broken(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        return x * math.nan

    with pytest.raises(GentoolError, match="finite"):
        log_likelihood(broken, Edm(), X, draws(12, 2), method=method)


def _box(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
    """E[x0 | x] for x0 uniform on [-1, 1]^d: mean of a truncated normal."""
    s = sigma.view(-1, 1)
    low, high = (-1 - x) / s, (1 - x) / s
    normal = torch.distributions.Normal(0.0, 1.0)
    # mirrored where both ends lie in the upper tail, so that the difference of the cdfs keeps its digits
    mass = torch.where(low > 0, normal.cdf(-low) - normal.cdf(-high), normal.cdf(high) - normal.cdf(low))
    return x + s * (normal.log_prob(low).exp() - normal.log_prob(high).exp()) / mass


def test_uniform_levels_have_eight_bits_under_the_true_density() -> None:
    levels = torch.randint(2, 254, (24, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    x = dequantise(levels, draws(24, 3))
    assert ((x + 1) * 128).floor().eq(levels).all()
    true = torch.full((24,), -3 * math.log(2), dtype=torch.float64)
    torch.testing.assert_close(bits_per_dim(true, 3), torch.full((24,), 8.0, dtype=torch.float64))
    # the ODE's density at sigma 0.002 is that of the box, away from its edges
    found = log_likelihood(_box, Edm(), x, draws(24, 3), data_std=0.577)
    assert (bits_per_dim(found.log_prob, 3) - 8).abs().max() < 2e-3


def test_dequantisation_is_uniform_within_a_level_and_by_counter() -> None:
    images = torch.full((50, 1, 10, 10), 7, dtype=torch.uint8)
    u = (dequantise(images, draws(50, 1, 10, 10)) + 1) * 128 - 7
    assert u.min() >= 0
    assert u.max() < 1
    assert u.mean().item() == pytest.approx(0.5, abs=4 / math.sqrt(12 * 5000))
    assert u.var().item() == pytest.approx(1 / 12, rel=0.05)
    alone = dequantise(images[:1], draws(1, 1, 10, 10, first=9))
    torch.testing.assert_close(alone[0], dequantise(images, draws(50, 1, 10, 10))[9], rtol=0, atol=0)
