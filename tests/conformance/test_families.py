"""What every family's module must keep, whatever its model: the tasks rely on it and check none of it.

A new family adds a case to `CASES`: the smallest recipe that exercises what it adds.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gentool import families
from gentool.data import Batch, open_set
from gentool.errors import UserError
from gentool.recipes.resolve import resolve_text
from gentool.runs.weights import load_weights, save_weights
from gentool.tasks.model.build import build_module
from gentool.training.module import GenModule
from gentool.training.sampling import SampleRequest
from tests.families.lion_runs import model as small_lion

DIGITS = "data: {name: digits, limit: 64}\n"
CLOUDS = "data: {name: shapes, count: 12, points: 24, batch_size: 8}\n"
MLP = "network: {name: film-mlp, width: 32, blocks: 2}"
CASES = {
    **{
        f"edm {process}": (
            "edm",
            f"{DIGITS}model: {{{MLP}, process: {{name: {process}}}, conditional: true}}",
        )
        for process in ("edm", "ve", "vp", "ddpm", "cosine", "trig", "flow")
    },
    "edm points": ("edm", f"data: {{name: toy2d, count: 200}}\nmodel: {{{MLP}}}"),
    "edm u-net, augmented": (
        "edm",
        f"{DIGITS}model: {{network: {{name: song-unet, channels: 8, mult: [1, 2], blocks: 1, attention: [4]}}, "
        "augment: 0.5}",
    ),
    "edm adm, flipped": (
        "edm",
        f"{DIGITS}model: {{network: {{name: adm-unet, channels: 8, mult: [1, 2], blocks: 1, attention: [4], "
        "head_channels: 8}, conditional: true, flip: true}",
    ),
    "edm transformer": (
        "edm",
        f"{DIGITS}model: {{network: {{name: dit, width: 16, depth: 2, heads: 2}}, conditional: true}}",
    ),
    "cld": ("cld", f"{DIGITS}model: {{{MLP}, conditional: true}}"),
    "cld points, velocities drawn": (
        "cld",
        f"data: {{name: toy2d, count: 200}}\nmodel: {{{MLP}, loss: {{objective: dsm, weight: likelihood}}, "
        "precond: {mixed: false, time: linear}, process: {beta0: 0.1, beta1: 7.9}}",
    ),
    "cld u-net, augmented": (
        "cld",
        f"{DIGITS}model: {{network: {{name: song-unet, channels: 8, mult: [1, 2], blocks: 1, attention: [4], "
        "encoder: residual, resample: fir, embedding: fourier}, augment: 0.5}",
    ),
    "pfgmpp": ("pfgmpp", f"{DIGITS}model: {{{MLP}, conditional: true, dims: 16}}"),
    **{
        f"dpdm {config}": (
            "dpdm",
            f"{DIGITS}model: {{config: {config}, {MLP}, conditional: true, classes: 10}}\n"
            "privacy: {epsilon: 10, noise_multiplicity: 2}",
        )
        for config in ("edm", "v")
    },
    "genie": ("genie", f"{DIGITS}base: edm/digits-vp-small\nsample: {{solver: genie}}"),
    "genie u-net, unmixed": (
        "genie",
        f"{DIGITS}base: edm/digits-small\nmodel: {{mixed: false, flip: true}}\n"
        "sample: {solver: genie, grid: edm-vp}",
    ),
    "lace": (
        "lace",
        f"{DIGITS}base: stylegan2/digits8-small\nmodel: {{attributes: {{slant: {{source: measure, measure: slant}}, "
        "ink: {source: measure, measure: ink, above: 0.5}}, latents: 256, depth: 3, width: 16}",
    ),
    "editgan": (
        "editgan",
        f"{DIGITS}base: stylegan2/digits8-small\nmodel: {{heads: 2, hidden: [8, 4], fewest: 0, "
        "encoder: {channels: 4, most: 8, samples: 4}}",
    ),
    "classifier": (
        "classifier",
        f"{DIGITS}model: {{network: {{channels: 8, mult: [1, 2]}}, flip: true, shift: 1}}",
    ),
    "classifier cnn": (
        "classifier",
        f"{DIGITS}model: {{network: {{name: cnn, channels: [4, 4, 8], width: 16}}, shift: 1}}",
    ),
    "classifier of noisy states": (
        "classifier",
        f"{DIGITS}model: {{network: {{channels: 8, mult: [1, 2]}}, noise: {{process: {{name: vp}}}}}}",
    ),
    "classifier wrn": (
        "classifier",
        f"{DIGITS}model: {{network: {{name: wrn, depth: 10, widen: 1}}, flip: true}}",
    ),
    "a-vit": (
        "a-vit",
        f"{DIGITS}model: {{network: {{patch: 2, width: 16, depth: 3, heads: 2, registers: 1}}, "
        "augment: {mixup: 0.8, shift: 1}}",
    ),
    "a-vit, plain": (
        "a-vit",
        f"{DIGITS}model: {{network: {{patch: 4, width: 16, depth: 2, heads: 2}}, halting: null, "
        "augment: {flip: true}}",
    ),
    "ddgan": (
        "ddgan",
        f"{DIGITS}model: {{network: {{name: latent-unet, channels: 8, mult: [1, 2], blocks: 1, attention: [4], "
        "latent: 4, style: 8, layers: 1}, discriminator: {name: conv, channels: 8, mult: [1, 2], embedding: 8}, "
        "conditional: true, flip: true}",
    ),
    "ddgan points": (
        "ddgan",
        "data: {name: toy2d, count: 200}\nmodel: {network: {name: latent-mlp, width: 32}, "
        "discriminator: {name: mlp, width: 32}}",
    ),
    "lion": ("lion", f"{CLOUDS}model: {small_lion(more=', mixed: true, conditional: true')}"),
    "lion, first points as centres, other clouds": (
        "lion",
        f"{CLOUDS}model: {small_lion(more=', mixed: true, sampler: first, points: 12')}",
    ),
    "sap": (
        "sap",
        "data: {name: shapes, count: 6, points: 96, normals: true, batch_size: 4}\n"
        "model: {points: 64, resolution: 16, target_sigma: 1.0, width: 8, blocks: 2, grid: 8, levels: 2, offsets: 2}",
    ),
    "dp-sinkhorn dcgan": (
        "dp-sinkhorn",
        "data: {name: digits, limit: 64, batch_size: 16}\n"
        "model: {network: {name: dcgan, latent: 4, channels: 8}, conditional: true, debias: 1.0}",
    ),
    "dp-sinkhorn mlp, biased, unconditional": (
        "dp-sinkhorn",
        "data: {name: digits, limit: 64, batch_size: 16}\n"
        "model: {network: {name: mlp, latent: 4, width: 16}, conditional: false, debias: 0.0}",
    ),
    "stylegan2": (
        "stylegan2",
        f"{DIGITS}model: {{network: {{latent: 8, style: 8, layers: 2, channel_base: 64, channel_max: 8}}, "
        "discriminator: {channel_base: 64, channel_max: 8, layers: 2}, conditional: true, flip: true, "
        "augment: {p: 0.5}}",
    ),
    "stylegan2 unconditional, noise drawn": (
        "stylegan2",
        f"{DIGITS}model: {{network: {{latent: 8, style: 8, layers: 1, channel_base: 64, channel_max: 8}}, "
        "discriminator: {architecture: orig, channel_base: 64, channel_max: 8}, path_length: {weight: 0}, "
        "mixing: 0.0}\nsample: {noise: random, truncation: 0.9, cutoff: 2}",
    ),
}


def make(case: str, weights: int = 0) -> GenModule:
    """The module on its data, its weights moved off their (partly zero) initial values."""
    family, text = CASES[case]
    recipe = resolve_text(f"family: {family}\nema: null\n{text}\n", "case", families.recipe_schema).recipe
    dataset = open_set(recipe.data, "train")
    module = build_module(recipe, dataset.spec)
    module.fit_to_data(dataset)
    generator = torch.Generator().manual_seed(weights)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def batch_of(module: GenModule, rows: list[int]) -> Batch:
    return open_set(module.recipe.data, "train").take(rows)


def draw(module: GenModule, indices: range, seed: int = 3, labels: list[int] | None = None) -> Tensor:
    chosen = labels or [i % module.classes for i in indices if module.classes]
    request = SampleRequest(
        seed,
        indices,
        torch.tensor(chosen) if module.classes else None,
        module.recipe.sample.model_copy(update={"steps": 4}),
    )
    with torch.no_grad():
        return module.draw(request).x


def sample_shape(module: GenModule) -> tuple[int, ...]:
    """Clouds may be drawn with another number of points than the data have."""
    points = getattr(module.recipe.model, "points", None)
    return (points, 3) if points else tuple(module.spec.shape)


def outcome(module: GenModule) -> Tensor:
    """What the model is for: samples, or its figures on held-out data."""
    if module.draws_samples:
        return draw(module, range(2))
    figures = module.evaluate_model(open_set(module.recipe.data, "test"))
    return torch.tensor(list(figures.values()), dtype=torch.float64)


PER_EXAMPLE = [
    name
    for name, (family, _) in CASES.items()
    if families.module_class(family).losses is not GenModule.losses
]
"""Those whose loss is a mean over examples; the rest take a step of their own."""


def test_the_catalog_tells_without_torch_which_families_draw() -> None:
    for name in families.FAMILIES.names():
        assert families.FAMILIES.get(name).draws_samples == families.module_class(name).draws_samples, name


DRAWING = [name for name, (family, _) in CASES.items() if families.module_class(family).draws_samples]
JUDGED = [name for name in CASES if name not in DRAWING]


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_family_has_a_case() -> None:
    assert {family for family, _ in CASES.values()} == set(families.FAMILIES)


@pytest.mark.parametrize("name", families.FAMILIES.names())
def test_the_entry_tells_what_the_lists_show(name: str) -> None:
    family = families.FAMILIES.get(name)
    assert family.name == name
    assert family.summary
    assert family.paper
    assert issubclass(families.module_class(name), GenModule)
    fields = families.recipe_schema(name).model_fields
    assert {"data", "model", "trainer", "optimizer", "ema", "sample", "evaluate"} <= set(fields)


@pytest.mark.parametrize("case", PER_EXAMPLE)
def test_an_examples_loss_does_not_depend_on_the_others(case: str) -> None:
    module = make(case)
    losses = []
    for rows in ([0, 1, 2, 3], [0, 9, 8, 7], [0, 0, 0, 0]):
        module._seed(5)
        losses.append(module.per_example_loss(batch_of(module, rows)).detach())
    assert losses[0].shape == (4,)
    for other in losses[1:]:
        torch.testing.assert_close(other[0], losses[0][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", PER_EXAMPLE)
def test_the_loss_is_a_function_of_the_step_alone(case: str) -> None:
    """The same training batch gives the same bits, another one other noise: what exact resumption stands on."""
    module, losses = make(case), []
    for micro in (5, 6, 5):
        module._seed(micro)
        losses.append(module.per_example_loss(batch_of(module, [0, 1, 2, 3])).detach())
    assert torch.equal(losses[0], losses[2])
    assert not torch.allclose(losses[0], losses[1])


def test_every_weight_learns(case: str) -> None:
    module = make(case).train()
    loss = module.try_step(batch_of(module, list(range(16))))
    assert torch.isfinite(loss)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name


def test_plain_descent_on_one_batch_lowers_its_loss(case: str) -> None:
    module, losses = make(case).train(), []
    batch = batch_of(module, list(range(16)))
    for _ in range(8):
        module.zero_grad()
        losses.append(float(module.try_step(batch)))
        norm = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter -= 0.02 * parameter.grad / norm
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("case", DRAWING)
def test_samples_depend_on_seed_and_index_alone(case: str) -> None:
    module = make(case)
    whole = draw(module, range(8))
    assert whole.shape == (8, *sample_shape(module))
    assert whole.isfinite().all()
    assert torch.equal(draw(module, range(8)), whole)
    torch.testing.assert_close(draw(module, range(5, 6)), whole[5:6], rtol=1e-5, atol=1e-5)
    assert (draw(module, range(8), seed=4) - whole).abs().flatten(1).max(1).values.min() > 1e-3
    assert (whole[0] - whole[1]).abs().max() > 1e-3


def test_use_leaves_no_trace(case: str) -> None:
    """Neither in the weights nor in torch's own generators."""
    module = make(case)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    outcome(module)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("case", [name for name in DRAWING if "conditional: true" in CASES[name][1]])
def test_labels_matter(case: str) -> None:
    module = make(case)
    first, second = (draw(module, range(1), labels=[label]) for label in (1, 2))
    assert (first - second).abs().max() > 1e-4


def test_the_weights_file_carries_the_model(case: str, tmp_path: Path) -> None:
    module, other = make(case), make(case, weights=1)
    path = tmp_path / "model.safetensors"
    save_weights(path, module.model.state_dict(), {"family": "any"})
    assert not torch.equal(outcome(other), outcome(module))
    other.model.load_state_dict(load_weights(path)[0])
    assert torch.equal(outcome(other), outcome(module))


@pytest.mark.parametrize("case", DRAWING)
def test_wrong_requests_are_refused_before_any_work(case: str) -> None:
    module = make(case)
    sample = module.recipe.sample
    module.check_request(sample)
    for change in (
        {"solver": "nosuch"},
        {"options": {"nosuch": 1}},
        {"guidance": {"nosuch": {}}},
        {"grid": "nosuch"},
    ):
        with pytest.raises(UserError, match="nosuch"):
            module.check_request(sample.model_copy(update=change))


@pytest.mark.parametrize("case", JUDGED)
def test_a_model_that_draws_nothing_says_so_and_has_figures_of_its_own(case: str) -> None:
    module = make(case)
    with pytest.raises(UserError, match="draws no samples"):
        module.check_request(module.recipe.sample)
    with pytest.raises(UserError, match="draws no samples"):
        draw(module, range(1))
    figures = outcome(module)
    assert len(figures) > 0
    assert figures.isfinite().all()
    assert torch.equal(outcome(module), figures)
