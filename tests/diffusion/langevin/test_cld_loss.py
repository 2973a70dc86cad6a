"""Score matching of the velocity: closed forms on Gaussian data, and what makes the objectives agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gentool.diffusion.denoiser import Denoiser
from gentool.diffusion.langevin.config import LangevinConfig, LangevinProcess
from gentool.diffusion.langevin.loss import LangevinLoss, build
from gentool.diffusion.langevin.mixture import LangevinMixture
from gentool.diffusion.langevin.precond import VelocityPrecond
from gentool.diffusion.langevin.precond import build as build_precond
from gentool.diffusion.langevin.process import Langevin
from gentool.diffusion.mixture import GaussianMixture
from tests.diffusion.langevin.cld_cases import gaussian

OPTIMAL = {
    1.0: {0.001: 0.856726, 0.01: 0.724691, 0.1: 0.436084, 0.25: 0.101362, 0.5: 0.005482},
    0.25: {0.001: 0.856725, 0.01: 0.724195, 0.1: 0.305298, 0.25: 0.031499, 0.5: 0.001385},
}
"""Least loss of hybrid score matching on N(0, c^2), by c^2 and t, numerical_eps 0; computed independently."""
BASE = {0.001: 0.856840, 0.01: 0.728041, 0.1: 0.449335, 0.25: 0.108406, 0.5: 0.005526}
"""Loss of the mixed score's base alone on N(0, 1)."""
PURE = Langevin(LangevinProcess(numerical_eps=0.0))
TRIAD = GaussianMixture.triad()


class Silent(nn.Module):
    """A network whose output is `scale` times the velocity's noise level's share: 0 for an untrained one."""

    def forward(self, x: Tensor, c_noise: Tensor, label: Any = None, augment: Any = None) -> Tensor:
        return torch.zeros_like(x[:, : x.shape[1] // 2])


def at_time(process: Langevin, t: float) -> float:
    """The uniform draw that stands for t."""
    return (t - process.train_t_min) / (1 - process.train_t_min)


def losses(
    loss: LangevinLoss, denoise: Any, data: GaussianMixture, t: float, count: int = 200_000, seed: int = 0
) -> Tensor:
    """(count,) losses at t on draws of the data."""
    generator = torch.Generator().manual_seed(seed)
    x0 = data.sample(count, generator)
    u, noise = loss.draw(count, x0.shape[1:], generator)
    return loss(denoise, x0, None, None, torch.full_like(u, at_time(loss.process, t)), noise)


def exact(mixture: LangevinMixture) -> Any:
    return lambda state, sigma, label, augment: mixture.denoise(state, sigma, label)


@pytest.mark.parametrize("variance", OPTIMAL)
@pytest.mark.parametrize("t", BASE)
def test_the_exact_score_has_the_least_loss(variance: float, t: float) -> None:
    data = gaussian(variance**0.5, PURE)
    found = losses(LangevinLoss(PURE), exact(data), data.data, t)
    error = 5 * float(found.std()) / len(found) ** 0.5
    assert abs(float(found.mean()) - OPTIMAL[variance][t]) < error
    assert error < 0.02


@pytest.mark.parametrize("t", BASE)
def test_a_silent_network_has_the_loss_of_the_mixed_base(t: float) -> None:
    denoiser = Denoiser(Silent(), VelocityPrecond(PURE), PURE)
    found = losses(LangevinLoss(PURE), denoiser, gaussian(1.0, PURE).data, t)
    assert abs(float(found.mean()) - BASE[t]) < 5 * float(found.std()) / len(found) ** 0.5


def test_without_the_base_a_silent_network_has_loss_one() -> None:
    denoiser = Denoiser(Silent(), VelocityPrecond(PURE, mixed=False), PURE)
    found = losses(LangevinLoss(PURE), denoiser, TRIAD, 0.2)
    assert float(found.mean()) == pytest.approx(1, abs=0.02)


def test_the_mixed_base_is_the_exact_answer_where_data_are_forgotten() -> None:
    """At t = 1 a silent network's score is the data's, up to what Phi(1) leaves of them."""
    mixture, denoiser = LangevinMixture(TRIAD, PURE), Denoiser(Silent(), VelocityPrecond(PURE), PURE)
    state = torch.randn(50, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.ones(50, dtype=torch.float64)
    on_x, on_w, on_x0 = (c.unsqueeze(1) for c in PURE.score(t))
    score = on_x * state[:, 0] + on_w * state[:, 1] + on_x0 * denoiser(state, PURE.sigma(t))
    torch.testing.assert_close(score, mixture.score(state, t), rtol=0.0, atol=0.02)


@pytest.mark.parametrize("t", [1e-3, 0.03, 0.4])
@pytest.mark.parametrize("objective", ["hsm", "dsm"])
def test_both_objectives_are_least_at_the_same_score(objective: Any, t: float) -> None:
    """Their targets differ; their means given the state are one score, so the loss's slope there is 0 in every
    direction. Checked in the direction of the state's own velocity and of its data."""
    loss, mixture = LangevinLoss(PURE, objective), LangevinMixture(TRIAD, PURE)

    def slope(part: int) -> tuple[float, float]:
        shift = torch.zeros((), dtype=torch.float64, requires_grad=True)

        def denoise(state: Tensor, sigma: Tensor, label: Any, augment: Any) -> Tensor:
            unit = 1 / PURE.score(PURE.t_of_sigma(sigma)).on_x0.unsqueeze(1)
            return mixture.denoise(state, sigma) + shift * unit * state[:, part]

        each = losses(loss, denoise, TRIAD, t, count=100_000, seed=part)
        (whole,) = torch.autograd.grad(each.mean(), shift)
        halves = [
            torch.autograd.grad(losses(loss, denoise, TRIAD, t, count=10_000, seed=k).mean(), shift)[0]
            for k in range(8)
        ]
        return float(whole), float(torch.stack(halves).std()) / 10**0.5

    for part in (0, 1):
        found, error = slope(part)
        assert abs(found) < 5 * error


def test_hybrid_matching_has_the_smaller_loss_near_data() -> None:
    """Knowing w0 makes the target larger without making it more predictable: the reason for HSM."""
    scaled = []
    for objective in ("hsm", "dsm"):
        loss = LangevinLoss(PURE, objective, "likelihood")  # type: ignore[arg-type]
        scaled.append(
            float(losses(loss, exact(LangevinMixture(TRIAD, PURE)), TRIAD, 3e-4, count=20_000).mean())
        )
    assert scaled[0] < scaled[1]


@pytest.mark.parametrize("objective", ["hsm", "dsm"])
@pytest.mark.parametrize("mixed", [True, False])
def test_a_network_that_knows_the_noise_knows_the_score(objective: Any, mixed: bool) -> None:
    """The preconditioning turns N into the score -N ell - [w / Var w] of its objective, whatever the objective."""
    config = LangevinConfig.model_validate(
        {"precond": {"mixed": mixed}, "loss": {"objective": objective}}, strict=False
    )
    process = Langevin(config.process)
    outputs = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    seen: dict[str, Tensor] = {}

    class Fixed(nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor, label: Any = None, augment: Any = None) -> Tensor:
            seen.update(x=x, c_noise=c_noise)
            return outputs

    denoiser = Denoiser(Fixed(), build_precond(config, process), process)
    state = torch.randn(6, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([1e-5, 1e-3, 0.01, 0.1, 0.5, 1.0], dtype=torch.float64)
    x0 = denoiser(state, process.sigma(t))
    on_x, on_w, on_x0 = (c.unsqueeze(1) for c in process.score(t))
    score = on_x * state[:, 0] + on_w * state[:, 1] + on_x0 * x0
    known = process.transition(t, velocity_known=objective == "dsm")
    expected = -outputs * (known.xx / known.det).sqrt().unsqueeze(1)
    if mixed:
        expected = expected - state[:, 1] / process.transition(t).ww.unsqueeze(1)
    torch.testing.assert_close(score, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(seen["x"], torch.cat([state[:, 0], state[:, 1] * process.mass**0.5], 1))
    torch.testing.assert_close(seen["c_noise"], t.log(), rtol=1e-9, atol=1e-12)


def test_float32_states_lose_little_of_the_score() -> None:
    """What sampling feeds is float32: at the smallest times of sampling and of training its score keeps 3 digits."""
    process = Langevin()
    mixture = LangevinMixture(TRIAD, process)
    generator = torch.Generator().manual_seed(0)
    for t in (1e-3, 1e-5):
        at = torch.full((256,), t, dtype=torch.float64)
        loss = LangevinLoss(process)
        x0 = TRIAD.sample(256, generator)
        state, _ = loss._perturb(x0, at, torch.randn(256, 2, 2, dtype=torch.float64, generator=generator))
        sigma, (on_x, on_w, on_x0) = process.sigma(at), (c.unsqueeze(1) for c in process.score(at))
        whole = mixture.denoise(state, sigma)
        rough = mixture.denoise(state, sigma).float().double()
        linear = on_x * state[:, 0] + on_w * state[:, 1]
        scores = [linear + on_x0 * d for d in (whole, rough)]
        assert float((scores[1] - scores[0]).norm() / scores[0].norm()) < 2e-3


def test_weights() -> None:
    """beta: Gamma beta(t); likelihood: that times ell_v^2 = the noise's precision."""
    process, t = Langevin(LangevinProcess(beta0=1.0, beta1=3.0)), 0.3
    data = gaussian(1.0, process)
    unit, beta, likelihood = (
        losses(LangevinLoss(process, "hsm", weight), exact(data), data.data, t, count=64)  # type: ignore[arg-type]
        for weight in ("unit", "beta", "likelihood")
    )
    found = process.transition(torch.tensor(t, dtype=torch.float64))
    torch.testing.assert_close(beta, unit * 1.0 * (1 + 3 * 0.3), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(likelihood, beta * float(found.xx / found.det) * 4, rtol=1e-6, atol=0.0)


def test_draws_average_inside_an_example_and_stay_per_sample() -> None:
    loss = build(LangevinConfig(), PURE)
    denoise, generator = exact(LangevinMixture(TRIAD, PURE)), torch.Generator().manual_seed(0)
    x0 = TRIAD.sample(4, generator)
    u, noise = loss.draw(4, (2,), generator, draws=3)
    whole = loss(denoise, x0, None, None, u, noise)
    single = torch.stack(
        [loss(denoise, x0, None, None, u[:, k : k + 1], noise[:, k : k + 1]) for k in range(3)]
    )
    torch.testing.assert_close(whole, single.mean(0))
    torch.testing.assert_close(loss(denoise, x0[1:2], None, None, u[1:2], noise[1:2]), whole[1:2])
