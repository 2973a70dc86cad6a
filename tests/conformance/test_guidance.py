"""What every guidance rule of the catalogue must keep, for a model that is known in closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gentool.diffusion.guidance.build import build
from gentool.diffusion.guidance.catalog import CATALOG, check, parse
from gentool.diffusion.mixture import GaussianMixture
from gentool.diffusion.predictor import Predictor
from gentool.errors import UserError

DATA = GaussianMixture.triad()
MEANS = {"null_label": 3, "label_dropout": 0.1, "has_attention": True}
RULES = list(CATALOG)


def log_prob(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
    """Bayes' rule on the mixture: log p(x | label) + log p(label) - log p(x)."""
    joint = DATA.log_prob(x, sigma, label) + DATA.log_weights[label]
    return joint - DATA.log_prob(x, sigma)


def worse(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
    """What a network without its attention might say: everything drawn to the middle."""
    return 0.5 * DATA.denoise(x, sigma, label)


def predictor(rule: str, label: Tensor, **options: Any) -> Predictor:
    guidance = build(check({rule: options}), **MEANS, log_prob=log_prob)  # type: ignore[arg-type]
    return Predictor(
        DATA.denoise, variants={"perturbed": worse}, label=label, guidance=guidance, dtype=torch.float64
    )


def states(count: int = 6) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, torch.arange(count) % 3


@pytest.mark.parametrize("rule", RULES)
def test_scale_one_or_none_is_the_plain_prediction(rule: str) -> None:
    """w = 1 is the labelled model; of the classifier's gradient, 0 is none."""
    x, label = states()
    neutral = 0.0 if rule == "classifier" else 1.0
    plain = Predictor(DATA.denoise, label=label, dtype=torch.float64)
    guided = predictor(rule, label, scale=neutral)
    for sigma in (2.0, 0.7, 0.2):
        torch.testing.assert_close(guided(x, sigma), plain(x, sigma), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_defaults_guide_and_cost_what_the_catalogue_says(rule: str) -> None:
    x, label = states()
    plain = Predictor(DATA.denoise, label=label, dtype=torch.float64)
    guided = predictor(rule, label)
    moved = guided(x, 0.7) - plain(x, 0.7)
    assert moved.isfinite().all()
    assert moved.norm(dim=1).max() > 1e-3
    assert guided.nfe <= CATALOG[rule].nfe


@pytest.mark.parametrize("rule", RULES)
def test_a_samples_guidance_does_not_depend_on_the_others(rule: str) -> None:
    x, label = states()
    whole, alone = predictor(rule, label), predictor(rule, label[2:3])
    for sigma in (2.0, 0.7, 0.2):  # rules that remember are asked again
        torch.testing.assert_close(alone(x[2:3], sigma), whole(x, sigma)[2:3], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rule", RULES)
def test_a_step_can_be_replayed(rule: str) -> None:
    x, label = states()
    guided = predictor(rule, label)
    guided(x, 2.0)
    memory = guided.memory()
    first = guided(x, 0.7)
    guided.restore(memory)
    assert torch.equal(guided(x, 0.7), first)


@pytest.mark.parametrize("rule", RULES)
def test_the_command_lines_form_is_the_recipes(rule: str) -> None:
    assert check(parse(f"{rule}=3")) == check({rule: {"scale": 3.0}})
    assert check(parse(rule)) == check({rule: {}})


@pytest.mark.parametrize("rule", RULES)
def test_a_model_without_the_means_is_refused_with_the_reason(rule: str) -> None:
    bare: dict[str, Any] = {
        "null_label": None,
        "label_dropout": 0.0,
        "has_attention": False,
        "log_prob": None,
    }
    with pytest.raises(UserError, match=rule):
        build(check({rule: {}}), **bare)
