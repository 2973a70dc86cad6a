"""PFGM++: the laws of its noise, its limits, and that sampling ends on the data."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from gentool import families
from gentool.data import open_set
from gentool.diffusion.grids import make_grid
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.processes import Edm
from gentool.diffusion.solvers.core import build as build_solver
from gentool.diffusion.solvers.integrate import integrate
from gentool.diffusion.student import log_density, prior_factors, radial_factors
from gentool.errors import RecipeError, UserError
from gentool.noise import Noise
from gentool.recipes.resolve import resolve_text
from gentool.recipes.schema import Sample
from gentool.tasks.model.build import build_module
from gentool.training.module import GenModule
from gentool.training.sampling import SampleRequest

MODEL = "network: {name: film-mlp, width: 16, blocks: 1}, conditional: true"


def module(family: str, extra: str = "") -> GenModule:
    text = f"family: {family}\nema: null\ndata: {{name: digits, limit: 32}}\nmodel: {{{MODEL}{extra}}}\n"
    recipe = resolve_text(text, "test", families.recipe_schema).recipe
    made = build_module(recipe, open_set(recipe.data, "train").spec)
    made.assume_data()
    with torch.no_grad():
        for i, parameter in enumerate(made.parameters()):
            parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(i))
    return made


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("n", "dims"), [(3, 1.0), (64, 8.0), (64, 128.0), (5, 2.5)])
@pytest.mark.parametrize("source", ["training", "prior"])
def test_the_radius_follows_the_papers_law(n: int, dims: float, source: str) -> None:
    """R^2 = r^2 b / (1 - b) with b ~ Beta(N/2, D/2), r = sigma sqrt(D); equally |n|^2 / (N sigma^2) ~ F(N, D)."""
    count = 4000
    if source == "training":
        factors = radial_factors(count, 1, dims, generator()).squeeze(1)
    else:
        factors = prior_factors(dims, Noise(0, range(count), (n,)))
    eps = torch.randn(count, n, generator=generator(1), dtype=torch.float64)
    squares = (eps * factors[:, None]).square().sum(1)
    ratio = squares / (squares + dims)  # b, at sigma = 1
    assert stats.kstest(ratio.numpy(), stats.beta(n / 2, dims / 2).cdf).pvalue > 1e-3
    assert stats.kstest((squares / n).numpy(), stats.f(n, dims).cdf).pvalue > 1e-3


def test_at_256_pixels_the_noise_keeps_its_size() -> None:
    """A clipped Beta, as published, makes a thin shell of 0.65 of it."""
    n = 3 * 256 * 256
    chi2 = torch.from_numpy(stats.chi2(n).rvs(2001, random_state=0))
    share = chi2 * radial_factors(2001, 1, 128.0, generator()).squeeze(1).square() / n
    assert 0.98 < float(share.median()) < 1.04


@pytest.mark.parametrize("dims", [1.0, 5.5, 300.0])
def test_the_density_is_students_in_one_dimension_and_integrates_to_one_in_two(dims: float) -> None:
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)
    expected = torch.distributions.StudentT(torch.tensor(dims, dtype=torch.float64), 0.0, 0.7).log_prob(x)
    torch.testing.assert_close(log_density(x[:, None], 0.7, dims), expected)
    radii = torch.logspace(-4, 7, 20_000, dtype=torch.float64)
    plane = torch.stack([radii, torch.zeros_like(radii)], 1)
    mass = torch.trapezoid(2 * math.pi * radii * log_density(plane, 0.7, dims).exp(), radii)
    assert float(mass) == pytest.approx(1, abs=2e-3)


def test_the_density_tends_to_the_gaussian() -> None:
    x = torch.randn(6, 4, generator=generator(), dtype=torch.float64)
    gaussian = torch.distributions.Normal(0.0, 0.7).log_prob(x).sum(1)
    gaps = [float((log_density(x, 0.7, dims) - gaussian).abs().max()) for dims in (1e3, 1e4, 1e5)]
    assert gaps[0] == pytest.approx(10 * gaps[1], rel=0.05)  # first order in 1/D
    assert gaps[1] == pytest.approx(10 * gaps[2], rel=0.05)


def two_points(x: Tensor, sigma: Tensor, a: float, dims: float) -> Tensor:
    """E[x0 | x] of the data +-a, in closed form."""
    n, s = x.shape[1], sigma.square() * dims
    log_w = [-(n + dims) / 2 * ((x - sign * a).square().sum(1) + s).log() for sign in (1, -1)]
    share = torch.sigmoid(log_w[0] - log_w[1])
    return (a * (2 * share - 1))[:, None].expand_as(x)


@pytest.mark.parametrize("dims", [2.5, 64.0])
def test_the_training_noise_has_the_closed_forms_denoiser_as_its_optimum(dims: float) -> None:
    """The loss's gradient vanishes there: x0 - E[x0 | x] is orthogonal to every bounded function of x."""
    count, n, a, s = 200_000, 3, 0.5, 0.8
    x0 = a * torch.randint(0, 2, (count, 1), generator=generator(2)).double().mul(2).sub(1).expand(count, n)
    eps = torch.randn(count, n, generator=generator(3), dtype=torch.float64)
    x = x0 + s * eps * radial_factors(count, 1, dims, generator(4))
    error = (x0 - two_points(x, torch.full((count,), s, dtype=torch.float64), a, dims))[:, 0]
    for test in (x[:, 0].tanh(), x.norm(dim=1).reciprocal() * x[:, 1], (2 * x.sum(1)).sin()):
        product = error * test
        assert abs(float(product.mean())) < 4 * float(product.std()) / count**0.5
    wrong = (x0 - two_points(x, torch.full((count,), s, dtype=torch.float64), a, dims * 20))[:, 0]
    assert error.square().mean() < wrong.square().mean()


@pytest.mark.parametrize("dims", [8.0, 128.0])
def test_the_ode_from_the_prior_ends_on_the_data(dims: float) -> None:
    """EDM's solver, unchanged, on the exact field of two points: half of the samples at each."""
    process = Edm(0.002, 80.0)
    noise = Noise(0, range(400), (3,), dtype=torch.float64)
    prior = noise.normal("prior") * 80.0 * prior_factors(dims, noise)[:, None]
    predict = Predictor(
        lambda x, sigma, label: two_points(x, sigma, 0.5, dims), dtype=torch.float64, sigma_max=80.0
    )
    grid = make_grid("karras", 40, process)
    ended = integrate(predict, process, build_solver("edm"), grid, prior, noise).x
    assert float((ended.abs() - 0.5).abs().max()) < 1e-2
    share = float((ended[:, 0] > 0).double().mean())
    assert abs(share - 0.5) < 4 * 0.5 / 400**0.5


def test_infinite_dims_is_edm_to_the_bit_and_many_are_nearly() -> None:
    edm, infinite, many = module("edm"), module("pfgmpp", ", dims: inf"), module("pfgmpp", ", dims: 1.0e+9")
    batch = open_set(edm.recipe.data, "train").take(range(8))
    losses, samples = [], []
    for made in (edm, infinite, many):
        made._seed(3)
        losses.append(made.per_example_loss(batch).detach())
        request = SampleRequest(1, range(4), torch.arange(4), Sample(solver="edm", steps=5))
        with torch.no_grad():
            samples.append(made.draw(request).x)
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(samples[0], samples[1])
    torch.testing.assert_close(losses[0], losses[2], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(samples[0], samples[2], rtol=1e-3, atol=1e-3)
    assert infinite.likelihood_prior() is None


def test_one_factor_a_sample_not_a_pixel() -> None:
    few = module("pfgmpp", ", dims: 4")
    gaussian = module("pfgmpp", ", dims: inf")
    batch = open_set(few.recipe.data, "train").take(range(8))
    drawn = []
    for made in (few, gaussian):
        made._seed(3)
        drawn.append(made.examples(batch)["noise"])
    ratio = (drawn[0] / drawn[1]).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=0)
    assert ratio[:, 0].std() > 0.05


def test_what_is_derived_for_gaussian_noise_is_refused_or_said() -> None:
    made = module("pfgmpp", ", dims: 64")
    assert made.check_request(Sample(solver="edm")) == []
    (notice,) = made.check_request(Sample(solver="ddpm"))
    assert "ddpm: the noise that it adds is Gaussian" in notice
    assert module("pfgmpp", ", dims: inf").check_request(Sample(solver="ddpm")) == []
    with pytest.raises(UserError, match="moves along the score of Gaussian noise"):
        made.check_request(Sample(guidance={"classifier": {}}))


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (", dims: 0", "dims: expected a number above 0 or inf, got 0"),
        (", dims: .nan", "dims"),
        (", dims: many", "dims: expected a number above 0 or inf"),
        (", process: {name: vp}", "take the process edm or ve, not vp"),
    ],
)
def test_bad_dimensions_are_refused(extra: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        module("pfgmpp", extra)
