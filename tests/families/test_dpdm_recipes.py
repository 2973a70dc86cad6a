"""DPDM's shipped recipes: the paper's plans, networks and samplers."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from torch import Tensor, nn

from gentool import families
from gentool.diffusion import precond
from gentool.diffusion.config import EdmPrecond
from gentool.diffusion.denoiser import Denoiser
from gentool.diffusion.processes import build as build_process
from gentool.families.dpdm.config import CONFIGS
from gentool.privacy.plan import plan
from gentool.recipes import shipped
from gentool.recipes.resolve import resolve
from gentool.recipes.schema import Recipe, Sample
from gentool.training import drawing
from gentool.training.sampling import SampleRequest

PAPER = {
    # config, sample rate, steps, draws, delta, the noise that opacus finds, whose
    # search stops up to 0.01 below epsilon: ours is the least that meets it
    "mnist-eps02": ("v", 1 / 15, 4500, 32, 1e-5, 85.0),
    "mnist-eps1": ("edm", 1 / 15, 4500, 32, 1e-5, 18.28),
    "mnist-eps10": ("edm", 1 / 15, 4500, 32, 1e-5, 2.488),
    "fashion-mnist-eps02": ("v", 1 / 15, 4500, 32, 1e-5, 85.0),
    "fashion-mnist-eps1": ("edm", 1 / 15, 4500, 32, 1e-5, 18.28),
    "fashion-mnist-eps10": ("edm", 1 / 15, 4500, 32, 1e-5, 2.488),
    "celeba32-eps1": ("edm", 1 / 80, 24000, 32, 1e-6, 8.83),
    "celeba32-eps10": ("edm", 1 / 80, 24000, 32, 1e-6, 1.304),
    "celeba64-eps10": ("edm", 1 / 80, 24000, 8, 1e-6, 1.304),
    "cifar10-eps10": ("edm", 1 / 25, 12500, 8, 1e-5, 2.480),
    "imagenet32-eps10": ("edm", 1 / 626, 62600, 8, 7e-7, 0.6026),
}


def loaded(name: str) -> Recipe:
    return resolve(f"dpdm/{name}", (), families.recipe_schema).recipe


def test_every_paper_recipe_is_listed_here() -> None:
    names = {name for name in shipped.names() if name.startswith("dpdm/") and name.endswith("-paper")}
    assert names == {f"dpdm/{name}-paper" for name in PAPER}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_plan(name: str) -> None:
    config, rate, steps, draws, delta, noise = PAPER[name]
    recipe = loaded(f"{name}-paper")
    assert recipe.model.config == config
    assert recipe.privacy is not None
    assert recipe.privacy.noise_multiplicity == draws
    assert (recipe.optimizer.name, recipe.optimizer.lr, recipe.optimizer.weight_decay) == ("adam", 3e-4, 0)
    assert recipe.ema is not None
    assert (recipe.ema.rule, recipe.ema.decay) == ("ramp", 0.999)
    made = plan(
        recipe.privacy, recipe.data.batch_size, recipe.trainer.max_steps, recipe.data.public_records()
    )
    assert (made.sample_rate, made.steps, made.delta) == (pytest.approx(rate), steps, delta)
    assert made.expected_batch == pytest.approx(recipe.data.batch_size, abs=0.5)
    assert made.noise_multiplier is not None
    assert recipe.privacy.epsilon is not None
    assert 0.94 * noise < made.noise_multiplier < 1.002 * noise
    assert 0.999 * recipe.privacy.epsilon < made.epsilon() <= recipe.privacy.epsilon


# Samplers


def grid_of(settings: Sample) -> Tensor:
    return drawing.build_grid(settings, build_process(CONFIGS["edm"].process)).sigma


def preset(recipe: Recipe, name: str) -> Sample:
    return recipe.sample.model_copy(update=recipe.sample.preset(name))


def test_the_papers_levels() -> None:
    levels = grid_of(loaded("mnist-eps10-paper").sample)
    assert len(levels) == 50  # both ends
    assert levels[:3].tolist() == pytest.approx([80, 71.5010, 63.7880], rel=1e-5)
    assert levels[-3:].tolist() == pytest.approx([0.005149, 0.003261, 0.002], rel=1e-3)
    churned = grid_of(preset(loaded("mnist-eps1-paper"), "fid"))
    assert (len(churned), float(churned[-2]), float(churned[-1])) == (1001, pytest.approx(0.002), 0.0)


@pytest.mark.parametrize("name", PAPER)
def test_both_presets_fit_the_model(name: str) -> None:
    recipe = loaded(f"{name}-paper")
    assert set(recipe.sample.presets) == ({"fid", "acc"} if recipe.model.conditional else {"fid"})
    for chosen in recipe.sample.presets:
        settings = preset(recipe, chosen)
        assert grid_of(settings)[0] == 80
        assert settings.steps + settings.denoise == 1000


class Posterior(nn.Module):
    """F of the exact denoiser of N(mean, variance) under the edm preconditioning."""

    def __init__(self, mean: float, variance: float) -> None:
        super().__init__()
        self.mean, self.variance = mean, variance

    def forward(self, x: Tensor, c_noise: Tensor, label: object = None, augment: object = None) -> Tensor:
        s = (4 * c_noise).exp().view(-1, 1)
        c_skip, c_in = SD2 / (s**2 + SD2), (s**2 + SD2).rsqrt()
        state = x / c_in
        exact = (self.variance * state + s**2 * self.mean) / (self.variance + s**2)
        return (exact - c_skip * state) / (s * math.sqrt(SD2) * c_in)


SD2 = 1 / 3


@pytest.mark.parametrize("how", ["default", "fid", "acc", "deterministic"])
def test_samplers_reach_a_gaussian_they_know(how: str) -> None:
    """Mean and variance of the data, from the exact denoiser; a deterministic sampler contracts step by step."""
    mean, variance, recipe = 0.3, 0.04, loaded("mnist-eps1-paper")
    settings = recipe.sample if how in ("default", "deterministic") else preset(recipe, how)
    if how == "deterministic":
        settings = settings.model_copy(update={"solver": "ddim"})
    process = build_process(CONFIGS["edm"].process)
    denoiser = Denoiser(
        Posterior(mean, variance).double(),
        precond.build(EdmPrecond(sigma_data=math.sqrt(SD2)), process),
        process,
    )
    traits = drawing.Traits((500,), 0, 0.0, images=False)
    drawn = drawing.draw(denoiser, SampleRequest(0, range(12), None, settings), traits)
    assert drawn.nfe == (1999 if how == "fid" else settings.steps + 1)
    # the contraction of the deterministic sampler by closed form: (x - m) <- (x - m) (1 + (s' - s) s/(v + s^2))
    scale = 80.0
    levels = grid_of(settings).tolist()
    for s, t in pairwise(levels):
        scale *= 1 + (t - s) * s / (variance + s**2)
    expected = (
        scale**2 * (variance / (variance + levels[-1] ** 2)) ** 2 if how == "deterministic" else variance
    )
    start = mean * scale / 80 if how == "deterministic" else 0.0
    tolerance = {"deterministic": 0.02, "default": 0.15}.get(how, 0.03)
    assert float(drawn.x.double().var()) == pytest.approx(expected, rel=tolerance)
    assert float(drawn.x.double().mean()) == pytest.approx(mean - start, abs=0.01)
