"""DPDM: the four configs by their formulas, the loss at the start, noise multiplicity, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gentool import families
from gentool.data import Batch, open_set
from gentool.errors import CorruptError, RecipeError, UserError
from gentool.families.dpdm.config import SIGMA_DATA
from gentool.families.dpdm.module import DpdmModule
from gentool.recipes.resolve import resolve_text
from gentool.tasks.model.build import build_module

MLP = "{name: film-mlp, width: 16, blocks: 1}"
U_NET = "{name: song-unet, channels: 8, mult: [1, 2], blocks: 1, attention: [4], label_embedding: table}"
CONFIGS = ("edm", "v", "vp", "ve")


def recipe(data: str = "{name: digits}", model: str = "conditional: true", **keys: str) -> Any:
    """A recipe with these blocks; `model` is added to the smallest one."""
    network = keys.pop("network", MLP)
    blocks = {
        "family": "dpdm",
        "data": data,
        "model": f"{{network: {network}, {model}}}",
        "privacy": "{epsilon: 10, noise_multiplicity: 2, records: 1000}",
        **keys,
    }
    text = "".join(f"{key}: {value}\n" for key, value in blocks.items() if value)
    return resolve_text(text, "here", families.recipe_schema).recipe


def made(
    *, data: str = "{name: digits}", model: str = "conditional: true, classes: 10", **keys: str
) -> DpdmModule:
    chosen = recipe(data, model, **keys)
    module = build_module(chosen, open_set(chosen.data, "train").spec)
    assert isinstance(module, DpdmModule)
    return module.eval()


def gaussian(count: int, std: float, seed: int = 0, shape: tuple[int, ...] = (1, 8, 8)) -> Tensor:
    return std * torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def loss_of(module: DpdmModule, x0: Tensor, draws: int = 1, seed: int = 1) -> Tensor:
    """(B,) losses of data at the null label."""
    u, noise = module.loss.draw(len(x0), x0.shape[1:], torch.Generator().manual_seed(seed), draws=draws)
    label = torch.full((len(x0),), module.classes) if module.classes else None
    return module.loss(module.model, x0, label, None, u, noise)


# The configs (section 3.1 of the paper; its code's noise laws)

SD2 = 1 / 3
SCALINGS: dict[str, tuple[Callable[[float], float], ...]] = {
    "edm": (
        lambda s: SD2 / (s * s + SD2),
        lambda s: s * math.sqrt(SD2 / (s * s + SD2)),
        lambda s: 1 / math.sqrt(s * s + SD2),
        lambda s: math.log(s) / 4,
    ),
    "v": (
        lambda s: 1 / (s * s + 1),
        lambda s: s / math.sqrt(s * s + 1),
        lambda s: 1 / math.sqrt(s * s + 1),
        lambda s: 2 / math.pi * math.acos(1 / math.sqrt(1 + s * s)),
    ),
    "vp": (
        lambda s: 1.0,
        lambda s: -s,
        lambda s: 1 / math.sqrt(s * s + 1),
        lambda s: 999 * (math.sqrt((0.1 / 19.9) ** 2 + 2 * math.log(1 + s * s) / 19.9) - 0.1 / 19.9),
    ),
    "ve": (lambda s: 1.0, lambda s: s, lambda s: 1.0, lambda s: math.log(s / 2)),
}
OPPOSITE = {"v"}
"""Configs whose network predicts the negative of the paper's F: the same denoisers, losses and gradients."""


@pytest.mark.parametrize("config", CONFIGS)
def test_the_scalings_are_the_papers(config: str) -> None:
    module = made(model=f"config: {config}")
    for s in (0.021, 0.3, 1.0, 7.0, 75.0):
        found = [float(v) for v in module.model.precond(torch.tensor([s], dtype=torch.float64))]
        wanted = [formula(s) for formula in SCALINGS[config]]
        if config in OPPOSITE:
            wanted[1] = -wanted[1]
        assert found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_weight_makes_the_loss_the_squared_error_of_the_network(config: str) -> None:
    module = made(model=f"config: {config}")
    sigma = torch.tensor([0.021, 0.3, 1.0, 7.0, 75.0])
    product = module.loss.weight(sigma) * module.model.precond(sigma).c_out ** 2
    torch.testing.assert_close(product, torch.ones(5))


def quantile(module: DpdmModule, u: float) -> float:
    return float(module.loss.times(torch.tensor([u], dtype=torch.float64)))


def test_the_laws_of_the_noise_levels() -> None:
    laws = {config: made(model=f"config: {config}") for config in CONFIGS}
    assert math.log(quantile(laws["edm"], 0.5)) == pytest.approx(-1.2)
    assert math.log(quantile(laws["edm"], 0.841344746)) == pytest.approx(0.0, abs=1e-6)
    low, high = 9.571184e-4, 0.99292808  # t at log-SNR 13 and -9
    for u in (0.0, 0.3, 0.9):
        t = low + u * (high - low)
        assert quantile(laws["v"], u) == pytest.approx(math.tan(math.pi * t / 2), rel=1e-6)
    assert (laws["v"].model.sigma_min, laws["v"].model.sigma_max) == pytest.approx(
        (math.exp(-6.5), math.exp(4.5))
    )
    for u in (0.0, 0.5, 0.999):
        t = 1e-5 + u * (1 - 1e-5)
        assert quantile(laws["vp"], u) == pytest.approx(math.sqrt(math.expm1(19.9 * t * t / 2 + 0.1 * t)))
        assert quantile(laws["ve"], u) == pytest.approx(0.02 * 5000**u)


@pytest.mark.parametrize(
    ("config", "above"), [("edm", (0.159, 0.0096, 0.0002)), ("v", (0.497, 0.120, 0.0249))]
)
def test_v_looks_at_large_noise_and_edm_hardly_does(config: str, above: tuple[float, ...]) -> None:
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    sigma = made(model=f"config: {config}").loss.times(u)
    found = [float((sigma > level).double().mean()) for level in (1, 5, 20)]
    assert found == pytest.approx(above, abs=6e-4)


def test_nothing_is_measured_on_the_data() -> None:
    module = made()
    assert float(module.model.precond.sigma_data) == pytest.approx(SIGMA_DATA)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.fit_to_data(None)  # it would fail, were it to look
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


# The loss before the first step: F = 0, and all is known


@pytest.mark.parametrize("network", [MLP, U_NET])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("variance", [1 / 3, 0.05])
def test_the_loss_at_the_start_is_known(config: str, network: str, variance: float) -> None:
    """E_s w [(1 - c_skip)^2 v + c_skip^2 s^2] over the law of s, by quadrature; 1 for v = sd^2 with edm."""
    module = made(model=f"config: {config}", network=network)
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    s = module.loss.times(u)
    skip, weight = module.model.precond(s).c_skip, module.loss.weight(s)
    expected = float((weight * ((1 - skip) ** 2 * variance + skip**2 * s**2)).mean())
    if config in ("vp", "ve") or (config == "edm" and variance == SD2):
        assert expected == pytest.approx(1.0, abs=1e-6)
    with torch.no_grad():
        found = loss_of(module, gaussian(3000, math.sqrt(variance)), draws=2).mean()
    assert float(found) == pytest.approx(expected, rel=0.02)


def test_training_cannot_improve_on_zero_where_zero_is_best() -> None:
    """Gaussian data of variance sd^2: D = c_skip x is exact, and the held-out loss stays at 1; on others it falls."""
    gained = {}
    for variance in (SD2, 0.02):
        module = made(model="config: edm", network="{name: film-mlp, width: 64, blocks: 1}").train()
        held_out, std = gaussian(2000, math.sqrt(variance), 1), math.sqrt(variance)
        optimizer = torch.optim.Adam(module.parameters(), 2e-3)
        with torch.no_grad():
            start = float(loss_of(module, held_out).mean())
        for step in range(100):
            optimizer.zero_grad()
            loss_of(module, gaussian(256, std, 10 + step), seed=step).mean().backward()
            optimizer.step()
        with torch.no_grad():
            gained[variance] = start - float(loss_of(module, held_out).mean())
    assert -0.05 < gained[SD2] < 0.005
    assert gained[0.02] > 0.15


# Noise multiplicity


def gradient(module: DpdmModule, x0: Tensor, u: Tensor, noise: Tensor) -> Tensor:
    loss = module.loss(module.model, x0, torch.tensor([3]), None, u, noise).sum()
    return torch.cat(
        [
            g.flatten()
            for g in torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
            if g is not None
        ]
    )


def stirred(**keys: str) -> DpdmModule:
    """Weights off their zeros, so that every parameter has a gradient."""
    module = made(**keys)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module


def test_the_gradient_of_k_draws_is_the_mean_of_single_draws_and_its_variance_falls_as_one_over_k() -> None:
    module, k = stirred(), 8
    x0 = gaussian(1, SIGMA_DATA)
    u, noise = module.loss.draw(1, x0.shape[1:], torch.Generator().manual_seed(3), draws=1600)
    singles = torch.stack([gradient(module, x0, u[:, i : i + 1], noise[:, i : i + 1]) for i in range(1600)])
    together = torch.stack(
        [gradient(module, x0, u[:, i : i + k], noise[:, i : i + k]) for i in range(0, 1600, k)]
    )
    torch.testing.assert_close(together, singles.view(-1, k, singles.shape[1]).mean(1), rtol=1e-4, atol=1e-5)
    ratio = singles.var(0).sum() / together.var(0).sum()
    assert float(ratio) == pytest.approx(k, rel=0.25)  # 200 groups: the figure's own error is 7 %


def test_a_label_is_dropped_for_all_draws_of_its_record_or_for_none() -> None:
    module = made(model="conditional: true, classes: 10, label_dropout: 0.1")
    batch = Batch(
        torch.zeros(20_000, 1, 8, 8, dtype=torch.uint8), torch.full((20_000,), 4), torch.arange(20_000)
    )
    module._seed(0)
    labels = module.examples(batch)["label"]
    assert labels.shape == (20_000,)  # one a record: the loss repeats it over its draws
    assert set(labels.tolist()) == {4, 10}
    assert float((labels == 10).double().mean()) == pytest.approx(0.1, abs=0.01)


# Classes are what the recipe says


def npz(path: Path, labels: Any, values: Any = None) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 1), dtype=np.uint8)
    np.savez(path / "set.npz", arr_0=pixels if values is None else values, arr_1=labels)
    return f"{{name: npz, path: {path}/set.npz}}"


def test_the_number_of_classes_is_the_recipes_not_the_largest_label(tmp_path: Path) -> None:
    module = made(data=npz(tmp_path, np.array([0, 1, 2, 1] * 4)), model="conditional: true, classes: 5")
    assert module.classes == 5
    assert module.model.network.mapping.label.num_embeddings == 6  # type: ignore[union-attr]
    assert module.spec.class_names == ("0", "1", "2", "3", "4")


@pytest.mark.parametrize(
    ("labels", "model", "words"),
    [
        ([0, 1, 2], "conditional: true", "state how many classes there are"),
        ([0, 1, 7], "conditional: true, classes: 5", "labels up to 7, but only 5 classes are stated"),
        ([0, 1, 2], "classes: 3", "take it out, or add conditional: true"),
        ([-1, -1, -1], "conditional: true, classes: 3", "has no labels"),
    ],
)
def test_labels_that_contradict_the_recipe_are_refused(
    labels: list[int], model: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        made(data=npz(tmp_path, np.array(labels)), model=model)
    assert "model." in str(caught.value)


def test_a_named_set_knows_its_classes() -> None:
    spec = recipe("{name: mnist}").data.expected_spec()
    assert build_module(recipe("{name: mnist}"), spec).classes == 10
    with pytest.raises(UserError, match=r"model\.classes: the data set mnist has 10 classes, not 12"):
        build_module(recipe("{name: mnist}", "conditional: true, classes: 12"), spec)


# What is refused


def test_one_hot_labels_are_refused_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match=r"labels of shape \(3, 10\)") as caught:
        made(data=npz(tmp_path, np.eye(10, dtype=np.int64)[:3]))
    assert "set.npz" in str(caught.value)


def test_a_label_below_the_classes_is_refused_with_its_row(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="label -2 of row 1"):
        made(data=npz(tmp_path, np.array([0, -2, 1])))


def test_pixels_that_are_not_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises((CorruptError, UserError), match="uint8"):
        made(data=npz(tmp_path, np.array([0, 1]), np.zeros((2, 8, 8, 1), np.float32)))


def test_a_size_that_cannot_be_halved_often_enough_is_refused() -> None:
    three = "{name: song-unet, channels: 8, mult: [1, 2, 2], blocks: 1, attention: [7]}"
    spec = recipe("{name: mnist, size: 14}").data.expected_spec()
    with pytest.raises(UserError, match="images of 14x14 cannot be halved 2 times"):
        build_module(recipe("{name: mnist, size: 14}", network=three), spec)


def test_a_recipe_without_privacy_is_refused() -> None:
    with pytest.raises(RecipeError, match="privacy: required"):
        recipe(privacy="")
    with pytest.raises(RecipeError, match="privacy"):
        recipe(privacy="null")


def test_a_config_that_is_none_names_those_there_are() -> None:
    with pytest.raises(RecipeError, match="edm, v, vp"):
        recipe(model="config: vpp")
