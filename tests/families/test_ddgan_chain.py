"""The chain of large steps: its constants, and that its posterior undoes it, without any training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gentool import families
from gentool.data import open_set
from gentool.diffusion.mixture import GaussianMixture
from gentool.diffusion.solvers.stochastic import ancestral_row
from gentool.families.ddgan.chain import Chain, log_alpha_bar
from gentool.families.ddgan.config import GeometricSchedule, ScheduleConfig, VpSchedule
from gentool.families.ddgan.module import DdganModule
from gentool.networks.generator import Generator
from gentool.recipes.resolve import resolve
from gentool.tasks.model.build import build_module
from gentool.training.sampling import SampleRequest

SCHEDULES = (VpSchedule(), GeometricSchedule())


def close(found: Tensor, expected: list[float], digits: float = 1e-8) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=digits, atol=1e-12)


def test_four_steps_have_the_papers_constants() -> None:
    chain = Chain(VpSchedule(), 4)
    close(chain.beta, [0.4782553, 0.849206, 0.95641771, 0.9874039], 1e-6)
    close(chain.abar_next, [0.521744697, 0.0786759676, 0.00342887890, 4.31904976e-5])
    close(chain.variance, [0, 0.44081915, 0.88420244, 0.98406071])
    close(chain.from_x0, [1, 0.66577836, 0.26919089, 0.05782154], 1e-7)
    close(chain.from_next, [0, 0.20157628, 0.19300081, 0.11185234], 1e-7)


def test_fewer_steps() -> None:
    two, one = Chain(VpSchedule(), 2), Chain(VpSchedule(), 1)
    close(two.beta, [0.92132403, 0.99945103])
    close(two.variance[1:], [0.92085803])
    close(two.from_x0[1:], [0.28035049], 1e-7)
    close(two.from_next[1:], [0.02158759], 1e-6)
    close(one.beta, [0.99995681])
    assert (one.from_x0.item(), one.from_next.item(), one.variance.item()) == (1, 0, 0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
@pytest.mark.parametrize("steps", [1, 2, 4, 8, 100])
def test_the_posterior_after_the_forward_step_is_the_forward_law(
    schedule: ScheduleConfig, steps: int
) -> None:
    """x_{k+1} ~ q(. | x0), then x_k ~ q(. | x_{k+1}, x0): mean sqrt(abar_k) x0 and variance 1 - abar_k."""
    chain = Chain(schedule, steps)
    mean = chain.from_x0 + chain.from_next * chain.abar_next.sqrt()
    variance = chain.from_next**2 * (1 - chain.abar_next) + chain.variance
    torch.testing.assert_close(mean, chain.abar.sqrt(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(variance, 1 - chain.abar, rtol=1e-9, atol=1e-13)
    assert chain.abar[0] == 1
    torch.testing.assert_close(chain.abar_next, (1 - chain.beta).cumprod(0), rtol=1e-10, atol=0)


def test_the_step_is_the_shared_floors_ancestral_step() -> None:
    """In the canonical state x / sqrt(abar) it is DDIM's with eta = 1, the solver that the runs are sampled by."""
    chain = Chain(VpSchedule(), 4)
    for k in (1, 2, 3):
        here, there = chain.abar[k].item(), chain.abar_next[k].item()
        row = ancestral_row(math.sqrt((1 - there) / there), math.sqrt((1 - here) / here), 1.0)
        scale = math.sqrt(here)
        assert chain.from_x0[k].item() / scale == pytest.approx(row.c[0], rel=1e-12)
        assert chain.from_next[k].item() * math.sqrt(there) / scale == pytest.approx(row.a, rel=1e-12)
        assert math.sqrt(chain.variance[k].item()) / scale == pytest.approx(row.noise, rel=1e-12)


def test_schedules_at_their_ends() -> None:
    """VP's integral of beta from 0 to 1 is the mean of its ends; the geometric variances are what they say."""
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    vp, geometric = (log_alpha_bar(s, ends) for s in SCHEDULES)
    close(vp, [0, -(0.1 + 20) / 2])
    close(1 - geometric.exp(), [0.01, 0.9999])


def test_pairs_are_the_chain_in_its_order() -> None:
    """Each part of x_k and x_{k+1} on its own: data, the first noise, the second."""
    chain = Chain(VpSchedule(), 4)
    k, one, none = torch.arange(4), torch.ones(4, 3), torch.zeros(4, 3)
    x, x_next = chain.pair(one, k, none, none)
    torch.testing.assert_close(x, chain.abar.sqrt().float()[:, None].expand(4, 3))
    torch.testing.assert_close(x_next, chain.abar_next.sqrt().float()[:, None].expand(4, 3))
    first, carried = chain.pair(none, k, one, none)
    assert (first[0] == 0).all()  # x_0 is the data
    torch.testing.assert_close(first[:, 0], (1 - chain.abar).sqrt().float())
    torch.testing.assert_close(carried[:, 0], first[:, 0] * (1 - chain.beta).sqrt().float())
    untouched, last = chain.pair(none, k, none, one)
    assert (untouched == 0).all()
    torch.testing.assert_close(last[:, 0], chain.beta.sqrt().float())


def test_the_last_step_ends_on_the_prediction_without_noise() -> None:
    chain = Chain(VpSchedule(), 4)
    x0, x_next, noise = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0)).unbind(0)
    assert torch.equal(chain.posterior(x0, x_next, torch.zeros(2, dtype=torch.int64), noise), x0)


def final_variance(steps: int, c2: float, latent: bool) -> float:
    """Of the whole sampler on data N(0, c2) with the exact generator, or with its mean alone: a recursion."""
    chain = Chain(VpSchedule(), steps)
    variance = 1.0
    for k in reversed(range(steps)):
        ab = chain.abar_next[k].item()
        total = ab * c2 + 1 - ab
        gain, spread = math.sqrt(ab) * c2 / total, c2 * (1 - ab) / total
        towards = chain.from_x0[k].item()
        variance = (towards * gain + chain.from_next[k].item()) ** 2 * variance + chain.variance[k].item()
        variance += towards**2 * spread * latent
    return variance / c2


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_a_generator_that_draws_the_truth_gives_the_data_for_any_number_of_steps(steps: int) -> None:
    """Exact for unit variance; for another the prior N(0, 1) is off by abar_T."""
    assert final_variance(steps, 1.0, latent=True) == pytest.approx(1, abs=1e-12)
    assert final_variance(steps, 0.25, latent=True) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("c2", "steps", "share"),
    [
        (1.0, 1, 4.3e-5),
        (1.0, 2, 0.072493),
        (1.0, 4, 0.302978),
        (1.0, 8, 0.489573),
        (1.0, 1000, 0.991028),
        (0.25, 4, 0.175690),
        (0.25, 8, 0.384554),
    ],
)
def test_without_a_latent_large_steps_lose_the_variance(c2: float, steps: int, share: float) -> None:
    """The reason for z: the mean of x0 instead of a draw of it."""
    assert final_variance(steps, c2, latent=False) == pytest.approx(share, rel=1e-2 if steps == 1 else 1e-3)


class Oracle(Generator):
    """Draws of p(x0 | x_{k+1}) of a mixture: z picks the component by its posterior weight, then the point."""

    def __init__(self, mixture: GaussianMixture, chain: Chain, mean_only: bool = False) -> None:
        super().__init__(latent=3, tanh=False)
        self.mixture, self.abar, self.mean_only = mixture, chain.abar_next, mean_only
        self.anchor = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))  # says the type

    def predicted(self, x: Tensor, k: Tensor, z: Tensor, label: Tensor | None) -> Tensor:
        ab = self.abar[k.long()][:, None]
        canonical, sigma2 = x / ab.sqrt(), (1 - ab) / ab
        if self.mean_only:
            return self.mixture.denoise(canonical, sigma2.squeeze(1).sqrt())
        means, variances = self.mixture.means, self.mixture.variances
        total = variances + sigma2
        squares = (canonical[:, None] - means).square().sum(2)
        weights = (self.mixture.log_weights - squares / (2 * total) - total.log()).softmax(1)
        uniform = torch.special.ndtr(z[:, :1])
        chosen = (weights.cumsum(1) < uniform).sum(1).clamp(max=len(means) - 1)
        pull = (variances / total).gather(1, chosen[:, None])
        centre = means[chosen] + pull * (canonical - means[chosen])
        return centre + (pull * sigma2).sqrt() * z[:, 1:]


def drawn_by(mixture: GaussianMixture, steps: int, mean_only: bool, count: int = 20_000) -> Tensor:
    """The family's own sampler around an oracle."""
    changes = [f"model.steps={steps}", f"sample.steps={steps}"]
    recipe = resolve("ddgan/toy2d-small", changes, families.recipe_schema).recipe
    module = build_module(recipe, open_set(recipe.data, "train").spec)
    assert isinstance(module, DdganModule)
    module.model = Oracle(mixture, module.chain, mean_only)
    with torch.no_grad():
        drawn = module.draw(SampleRequest(0, range(count), None, recipe.sample))
    assert drawn.nfe == steps
    return drawn.x.double()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_sampler_with_true_draws_samples_the_mixture(steps: int) -> None:
    """Shares, mean and covariance within five standard errors, whatever the number of steps."""
    triad = GaussianMixture.triad()
    x = drawn_by(triad, steps, mean_only=False)
    weights = triad.log_weights.exp()
    mean = weights @ triad.means
    centred = triad.means - mean
    covariance = (weights[:, None] * centred).T @ centred + (weights @ triad.variances) * torch.eye(2)
    spread = (covariance.diagonal() / len(x)).sqrt()
    assert ((x.mean(0) - mean).abs() < 5 * spread).all()
    torch.testing.assert_close(x.T.cov(), covariance, rtol=0, atol=5 * math.sqrt(2 / len(x)))
    found = triad._log_joint(x, triad._total(0.0), None).softmax(1).mean(0)
    assert ((found - weights).abs() < 5 * (weights * (1 - weights) / len(x)).sqrt()).all()


def test_the_sampler_with_the_mean_alone_does_not() -> None:
    """Four steps of the best deterministic generator lose a quarter of the variance and more."""
    x = drawn_by(GaussianMixture.triad(), 4, mean_only=True, count=4000)
    true = drawn_by(GaussianMixture.triad(), 4, mean_only=False, count=4000)
    assert (x.var(0) < 0.75 * true.var(0)).all()
