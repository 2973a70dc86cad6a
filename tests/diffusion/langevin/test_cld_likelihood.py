"""The likelihood bound: closed forms on Gaussian data."""

from __future__ import annotations

import math

import pytest
import torch

from gentool.diffusion.langevin.config import LangevinProcess
from gentool.diffusion.langevin.likelihood import joint_log_likelihood, log_likelihood_bound
from gentool.diffusion.langevin.mixture import LangevinMixture
from gentool.diffusion.langevin.process import Langevin
from gentool.diffusion.mixture import GaussianMixture
from gentool.errors import UserError
from gentool.noise import Noise
from tests.diffusion.langevin.cld_cases import gaussian

PROCESS = Langevin()
LATE = Langevin(LangevinProcess(train_t_min=0.05, t_min=0.05))
"""Its joint density has data and velocity correlated, so that the bound is not tight."""


def test_the_joint_density_is_the_mixtures() -> None:
    """log p(x, w) at the smallest trained time; the prior differs from the end of the diffusion by e^-14."""
    mixture = LangevinMixture(GaussianMixture.triad(), PROCESS)
    generator = torch.Generator().manual_seed(0)
    x = mixture.data.sample(24, generator)
    w = 0.2 * torch.randn(24, 2, dtype=torch.float64, generator=generator)
    state, noise = torch.stack([x, w], 1), Noise(0, range(24), (2,), dtype=torch.float64)
    found = joint_log_likelihood(mixture.denoise, PROCESS, state, noise)
    exact = mixture.log_prob(state, torch.full((24,), PROCESS.train_t_min, dtype=torch.float64))
    torch.testing.assert_close(found.log_prob, exact, rtol=0.0, atol=5e-3)
    assert found.latent.shape == state.shape
    assert not found.bound


def test_a_label_conditions_the_density() -> None:
    mixture = LangevinMixture(GaussianMixture.triad(), PROCESS)
    x = mixture.data.means.clone()
    state = torch.stack([x, torch.zeros_like(x)], 1)
    label, noise = torch.tensor([0, 1, 3]), Noise(0, range(3), (2,), dtype=torch.float64)
    found = joint_log_likelihood(mixture.denoise, PROCESS, state, noise, label=label)
    t = torch.full((3,), PROCESS.train_t_min, dtype=torch.float64)
    torch.testing.assert_close(found.log_prob, mixture.log_prob(state, t, label), rtol=0.0, atol=5e-3)


def test_the_bound_is_the_exact_value_minus_a_divergence() -> None:
    """E_q log p(x, w) + H(q) = log p(x) - KL(q || p(w | x)), in closed form for N(0, 0.7^2) and q = N(0, gamma)."""
    mixture, count = gaussian(0.7, LATE), 2500
    x0 = 0.4
    x = torch.full((count, 1), x0, dtype=torch.float64)
    noise = Noise(0, range(count), (1,), dtype=torch.float64)
    found = log_likelihood_bound(mixture.denoise, LATE, x, noise, tolerance=1e-4)
    c = mixture._spread(torch.tensor([LATE.train_t_min], dtype=torch.float64))
    xx, xw, det = float(c.xx), float(c.xw), float(c.det)
    log_p = -0.5 * (math.log(2 * math.pi * xx) + x0**2 / xx)
    mean, variance, gamma = xw / xx * x0, det / xx, LATE.gamma
    divergence = 0.5 * ((gamma + mean**2) / variance - 1 + math.log(variance / gamma))
    assert divergence > 0.1
    error = 5 * float(found.log_prob.std()) / count**0.5
    assert abs(float(found.log_prob.mean()) - (log_p - divergence)) < error + 2e-3
    assert error < 0.2
    assert found.bound


def test_more_velocities_are_tighter_and_stay_below() -> None:
    mixture, count = gaussian(0.7, LATE), 80
    x = torch.full((count, 1), 0.4, dtype=torch.float64)
    noise = Noise(0, range(count), (1,), dtype=torch.float64)
    means, calls = [], []
    for k in (1, 3, 9):
        found = log_likelihood_bound(mixture.denoise, LATE, x, noise, velocities=k, tolerance=1e-2)
        means.append(float(found.log_prob.mean()))
        calls.append(float(found.nfe.mean()))
    xx = float(mixture._spread(torch.tensor([LATE.train_t_min], dtype=torch.float64)).xx)
    exact = -0.5 * (math.log(2 * math.pi * xx) + 0.4**2 / xx)
    assert means[0] < means[1] < means[2] < exact + 0.03
    assert calls[0] < calls[1] < calls[2]


def test_probes_estimate_the_exact_trace() -> None:
    mixture = LangevinMixture(GaussianMixture.triad(), PROCESS)
    x = mixture.data.sample(4, torch.Generator().manual_seed(0))
    state = torch.stack([x, torch.zeros_like(x)], 1)
    noise = Noise(0, range(4), (2,), dtype=torch.float64)
    exact, probed = (
        joint_log_likelihood(mixture.denoise, PROCESS, state, noise, probes=32, exact_dims=dims).log_prob
        for dims in (2, 0)
    )
    torch.testing.assert_close(probed, exact, rtol=0.0, atol=0.7)
    assert not torch.equal(probed, exact)


def test_without_initial_velocity_there_is_no_likelihood() -> None:
    still = Langevin(LangevinProcess(gamma=0.0))
    x = torch.zeros(1, 1, dtype=torch.float64)
    with pytest.raises(UserError, match="gamma = 0"):
        log_likelihood_bound(gaussian(1.0, still).denoise, still, x, Noise(0, [0], (1,)))
