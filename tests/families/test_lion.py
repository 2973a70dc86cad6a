"""The parts of the family lion, in closed form."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gentool import families
from gentool.data import Batch, open_set
from gentool.families.lion.autoencoder import POINTS_LOG_STD, Gaussian, kl_weight
from gentool.families.lion.conditions import bags
from gentool.families.lion.config import LionModel, NoisyInput, VaeModel, VoxelInput
from gentool.families.lion.degrade import degrade
from gentool.families.lion.generation import to_noise
from gentool.families.lion.module import LionModule
from gentool.families.lion.priors import Mixed
from gentool.points.distances import chamfer, emd
from gentool.recipes.resolve import resolve_text
from gentool.recipes.schema import Sample
from gentool.tasks.model.build import build_module
from gentool.training.sampling import SampleRequest
from tests.families.lion_runs import recipe, spheres


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spheres(tmp_path_factory.mktemp("clouds") / "spheres.npz")


def module_of(data: Path, more: str = "", steps: int = 4) -> LionModule:
    found = resolve_text(recipe(data, more, steps), "case", families.recipe_schema).recipe
    made = build_module(found, open_set(found.data, "train").spec)
    assert isinstance(made, LionModule)
    return made.eval()


def batch_of(module: LionModule, count: int = 6) -> Batch:
    return open_set(module.recipe.data, "train").take(range(count))


def moved(module: LionModule) -> LionModule:
    """Weights off their (partly zero) initial values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module


# --- the autoencoder ---


def test_training_starts_at_the_identity_bit_for_bit(data: Path) -> None:
    module = module_of(data)
    x = batch_of(module).x.mT.contiguous()
    found = module.model.autoencoder.encode(x, torch.randn(6, 8), torch.zeros(6, 4, 24))
    assert torch.equal(found.points_law.mean[:, :3], x)
    assert torch.equal(found.points_law.mean[:, 3:], torch.zeros(6, 1, 24))
    assert (found.points_law.log_std == -6).all()
    assert torch.equal(found.style_law.kl(), torch.zeros(6))
    assert torch.equal(module.model.autoencoder.decode(found.style, found.points), x)


def test_the_divergence_from_a_standard_normal() -> None:
    assert Gaussian(torch.zeros(1, 1), torch.full((1, 1), -6.0)).kl().item() == pytest.approx(
        5.500003, abs=1e-6
    )
    mean, log_std = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    theirs = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0, 1)
    )
    torch.testing.assert_close(Gaussian(mean, log_std).kl(), theirs.sum((1, 2)))


def test_the_weight_of_the_divergence_rises_over_half_of_the_first_stage() -> None:
    config = LionModel(vae=VaeModel(steps=1000, kl_max=0.5))
    found = [kl_weight(step, config) for step in (0, 250, 500, 999)]
    assert found == pytest.approx([1e-7, 0.25, 0.5, 0.5], rel=1e-6)


def test_the_first_loss_is_the_noise_of_the_latent_points(data: Path) -> None:
    """Sum |x' - x| = e^-6 sum |noise|, and the divergence at its first weight."""
    module = module_of(data)
    examples = module.stage_examples(batch_of(module), "vae")
    noise, mean = examples["point_noise"], examples["x"]
    error = math.exp(-6) * noise[:, :3].abs().sum((1, 2))
    kl = 24 * 4 * (math.exp(-12) / 2 + 6 - 0.5) + mean.square().sum((1, 2)) / 2
    torch.testing.assert_close(module.losses(examples), error + 1e-7 * kl, rtol=2e-4, atol=1e-5)


def test_wild_weights_leave_latents_finite(data: Path) -> None:
    module = module_of(data)
    with torch.no_grad():
        module.model.autoencoder.encoder.out.bias.fill_(1e4)
        module.model.autoencoder.style_encoder.out.bias.fill_(1e4)
    found = module.model.autoencoder.encode(batch_of(module).x.mT, torch.randn(6, 8), torch.randn(6, 4, 24))
    assert (found.points_law.log_std == POINTS_LOG_STD[1]).all()
    assert found.points.isfinite().all()
    assert found.kl().isfinite().all()


def test_another_number_of_points_is_encoded_too(data: Path) -> None:
    module = moved(module_of(data))
    for count in (3, 50):
        x = torch.randn(2, 3, count)
        found = module.model.autoencoder.encode(x, torch.zeros(2, 8), torch.zeros(2, 4, count))
        assert module.model.autoencoder.decode(found.style, found.points).shape == (2, 3, count)


# --- the priors ---


def test_priors_learn_from_draws_of_a_frozen_autoencoder(data: Path) -> None:
    module = moved(module_of(data)).train()
    module._seed(0)
    examples = module.stage_examples(batch_of(module), "priors")
    losses = module.losses(examples)
    losses.mean().backward()
    assert all(p.grad is None for p in module.model.autoencoder.parameters())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in module.model.priors.parameters())
    assert module.model.autoencoder.training
    for key in ("style_noise", "point_noise"):  # a mean in the place of the draw would not feel it
        other = module.losses(examples | {key: examples[key] + 1})
        assert not torch.allclose(other, losses)


def test_the_chain_is_ddpms(data: Path) -> None:
    process = module_of(data).model.priors.process
    t = torch.tensor([1, 500, 1000], dtype=torch.float64) / 1000
    assert process.alpha(t).square().tolist() == pytest.approx([0.9999, 0.078587, 4.0358e-5], rel=1e-4)


def test_the_networks_are_told_levels_from_one(data: Path) -> None:
    module, told = module_of(data), []
    network = module.model.priors.style.network.network
    network.forward = lambda x, level, known=None: told.append(level) or x  # type: ignore[method-assign,func-returns-value]
    module.model.priors.losses(
        module.model.priors.style, torch.zeros(3, 8), torch.tensor([0, 40, 999]), torch.zeros(3, 8), None
    )
    assert torch.cat(told).tolist() == [1, 41, 1000]


def settings(**changes: Any) -> Sample:
    return Sample(**{"solver": "ddim", "steps": 25, "grid": "linspace", "options": {"eta": 0.0}, **changes})


def request(count: int, **changes: Any) -> SampleRequest:
    return SampleRequest(0, range(count), None, settings(**changes))


def normal_prior(module: LionModule) -> None:
    """Both priors as for latents that are standard normal."""
    for denoiser in (module.model.priors.style, module.model.priors.points):
        assert isinstance(denoiser.network, Mixed)
        with torch.no_grad():
            denoiser.network.logit.fill_(-torch.inf)


def test_mixed_prediction_at_its_limit_is_exact_for_normal_latents(data: Path) -> None:
    """eps = std x_t: each deterministic step multiplies by the cosine of its angle, phi = arccos sqrt(abar)."""
    module = moved(module_of(data, ", mixed: true"))
    normal_prior(module)
    asked = request(3)
    process = module.model.priors.process
    level = (999 - torch.arange(25, dtype=torch.float64) * 999 / 24).round()
    phi = torch.cat([process.alpha((level + 1) / 1000).acos(), torch.zeros(1, dtype=torch.float64)])
    expected = phi.diff().cos().prod()
    for part, shape in ((module.generation.style, (8,)),):
        found = part(asked, None).x
        torch.testing.assert_close(found, (expected * asked.noise(shape).normal("prior").double()).float())
    found = module.generation.points(asked, torch.zeros(3, 8), None).x
    assert float(found.detach().std()) == pytest.approx(float(expected), rel=0.1)


def test_ancestral_steps_keep_normal_latents_normal(data: Path) -> None:
    """x' = sqrt(alpha) x + sqrt(beta) z, and the last step is a mean: the variance ends at abar_1 = 0.9999."""
    module = module_of(data, ", mixed: true")
    normal_prior(module)
    asked = request(40, solver="ddpm", steps=1000, grid="trailing", options={"variance": "large"})
    found = module.generation.style(asked, None)
    assert found.nfe == 1000
    assert float(found.x.std()) == pytest.approx(1, abs=0.13)  # 320 values: a standard error of 0.04


def test_mixed_prediction_starts_near_that_limit_and_learns_by_channel(data: Path) -> None:
    module = module_of(data, ", mixed: true")
    shapes = [tuple(d.network.logit.shape) for d, _ in module.generation.parts()]
    assert shapes == [(8,), (4, 1)]
    assert all((d.network.logit == -6).all() for d, _ in module.generation.parts())


def test_latent_points_have_noise_of_their_own(data: Path) -> None:
    """Were it drawn like the global latent's, its first values would be the same."""
    module = module_of(data, ", mixed: true")
    normal_prior(module)
    style = module.generation.style(request(2), None).x
    points = module.generation.points(request(2), style, None).x.flatten(1)[:, :8]
    assert (style - points).abs().max() > 0.1


# --- conditions ---


def test_guidance_takes_the_label_away_and_leaves_the_global_latent(data: Path) -> None:
    """One step from pure noise lands on D_null + 2 (D_label - D_null), both of the same global latent."""
    module = moved(module_of(data, ", conditional: true"))
    style, condition = torch.randn(4, 8), torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    asked = request(4, steps=1, guidance={"cfg": {"scale": 2.0}})
    found = module.generation.points(asked, style, condition)
    assert found.nfe == 2
    denoiser = module.model.priors.points
    start = SampleRequest(module_seed(), range(4), None, asked.settings).noise((4, 24)).normal("prior")
    sigma = torch.full((4,), denoiser.process.sigma_max)
    x = start * denoiser.process.prior_scale(denoiser.process.sigma_max)
    labelled, null = (
        denoiser(x, sigma, torch.cat([style, told], dim=1)) for told in (condition, torch.full((4, 1), 2.0))
    )
    torch.testing.assert_close(found.x, null + 2 * (labelled - null), rtol=1e-3, atol=1e-2)
    other = module.generation.points(asked, style.flip(0), condition)
    assert (other.x - found.x).abs().amax((1, 2)).min() > 1e-3


def module_seed() -> int:
    """The seed that latent points are drawn by for seed 0."""
    from gentool.noise import mix

    return mix(0, "points")


def test_dropped_conditions_say_nothing(data: Path) -> None:
    module = module_of(data, ", conditional: true, label_dropout: 1.0")
    found = module.stage_examples(batch_of(module), "priors")["condition"]
    assert (found == 2).all()
    kept = module_of(data, ", conditional: true, label_dropout: 0.0")
    batch = batch_of(kept)
    found = kept.stage_examples(batch, "priors")["condition"]
    assert torch.equal(found[:, 0].long(), batch.label)


# --- there and back ---


def test_of_a_sentence_phrases_go_one_by_one_and_all_together() -> None:
    """A phrase is seen with probability (1 - p)^2: neither itself nor the whole sentence went."""
    found = resolve_text(
        recipe(Path("x"), ", text: true, label_dropout: 0.3").replace(
            "{name: npz, path: x, batch_size: 8}", "{name: shapes, points: 8, count: 2, batch_size: 8}"
        ),
        "case",
        families.recipe_schema,
    ).recipe
    dataset = open_set(found.data, "train")
    module = build_module(found, dataset.spec)
    assert isinstance(module, LionModule)
    module.look_up(dataset)
    module._seed(0)
    batch = dataset.take([i % len(dataset) for i in range(3000)])
    seen, whole = module.condition(batch), bags(dataset.sentences, dataset.spec.phrases, "here")[batch.index]
    assert seen is not None
    assert ((seen == 0) | (seen == whole)).all()
    assert abs(seen.sum() / whole.sum() - 0.49) < 0.02
    assert abs((seen == 0).all(1).float().mean() - 0.3) < 0.03


def test_latents_come_back_from_their_noise(data: Path) -> None:
    """The flow there and back is the identity as steps go to infinity: twice the steps, a quarter of the error."""
    module = moved(module_of(data))
    x, errors = torch.randn(4, 8), []
    for steps in (32, 64):
        way = settings(solver="edm", steps=steps, grid="log-snr", options={})
        noise, nfe = to_noise(module.model.priors.style, x, None, way)
        assert nfe == 2 * steps
        back = module.generation.style(SampleRequest(0, range(4), None, way, start=noise.float()), None).x
        errors.append(float((back - x).abs().max()))
    assert errors[1] < errors[0] / 2.5
    assert errors[1] < 0.05


# --- degraded input ---


def test_voxel_input_lies_on_the_centres_of_touched_voxels() -> None:
    x = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0))
    found = degrade(x, VoxelInput(size=0.5), torch.Generator().manual_seed(0))
    assert found.shape == x.shape
    for made, cloud in zip(found, x):
        touched = {tuple(p) for p in (cloud / 0.5).round().long().T.tolist()}
        assert {tuple(p) for p in (made / 0.5).round().long().T.tolist()} <= touched
        torch.testing.assert_close(made / 0.5, (made / 0.5).round())


def test_noisy_input_has_the_noise_that_it_says() -> None:
    x, generator = torch.zeros(4, 3, 5000), torch.Generator().manual_seed(0)
    assert float(degrade(x, NoisyInput(scale=0.2), generator).std()) == pytest.approx(0.2, rel=0.02)
    assert float(degrade(x, NoisyInput(law="uniform", scale=0.2), generator).abs().max()) <= 0.2
    box = torch.rand(4, 3, 5000, generator=generator)
    found = degrade(box, NoisyInput(scale=1e-6, outliers=0.3), generator)
    lost = ((found - box).norm(dim=1) > 1e-3).float().mean()
    assert float(lost) == pytest.approx(0.3, abs=0.02)
    assert float(found.amin()) > -1e-3
    assert float(found.amax()) < 1.001


def test_degraded_input_is_judged_by_distances_that_need_no_order(data: Path, tmp_path: Path) -> None:
    more = f", guided: {{start: {tmp_path}, input: {{name: noise, scale: 0.3}}, emd_weight: 0.5}}"
    module = module_of(data, more)
    module.model.autoencoder.eval()
    examples = module.examples(batch_of(module))
    seen = examples["input"] + math.exp(-6) * examples["point_noise"][:, :3]  # the identity, in and out
    x = examples["x"]
    error = 24 * (chamfer(seen.mT, x.mT) + 0.5 * emd(seen.mT, x.mT))
    kl: Tensor = module.model.autoencoder.encode(
        examples["input"], examples["style_noise"], examples["point_noise"]
    ).kl()
    torch.testing.assert_close(module.losses(examples), error + 0.5 / 32 * kl, rtol=1e-4, atol=1e-4)
