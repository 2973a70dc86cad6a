"""From options to rules, and refusals that say what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gentool.diffusion.guidance.build import build
from gentool.diffusion.guidance.catalog import CATALOG, check
from gentool.diffusion.guidance.classifier import Classifier, LogProb
from gentool.diffusion.guidance.classifier_free import Adaptive, ClassifierFree, Projected
from gentool.diffusion.guidance.compose import Composed
from gentool.diffusion.guidance.perturbed import Perturbed
from gentool.diffusion.predictor import Guidance
from gentool.errors import UserError

ABLE: dict[str, Any] = {"null_label": 10, "label_dropout": 0.1, "has_attention": True}


def log_prob(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
    return torch.zeros(len(x))


def built(rules: dict[str, dict[str, Any]], log_prob: LogProb | None = None, **model: Any) -> Guidance | None:
    return build(check(rules), log_prob=log_prob, **{**ABLE, **model})


def test_every_rule_of_the_catalogue_is_built_in_order_with_its_options() -> None:
    assert built({"cfg": {"scale": 3.0, "interval": [0.1, 2.0], "rescale": 0.7}}) == Composed(
        (ClassifierFree(3.0, (0.1, 2.0), 0.7),), 10
    )
    assert built({"apg": {"eta": 0.5, "momentum": -0.5, "radius_rms": 0.1}}) == Composed(
        (Projected(4.0, None, 0.5, -0.5, None, 0.1),), 10
    )
    both = built({"pag": {}, "adaptive": {"threshold": 0.9}, "classifier": {"scale": 2.0}}, log_prob=log_prob)
    assert both == Composed((Perturbed(4.0), Adaptive(2.0, None, 0.9), Classifier(2.0, log_prob)), 10)
    assert set(CATALOG) == {"cfg", "apg", "adaptive", "pag", "classifier"}


def test_no_rules_are_no_guidance() -> None:
    assert built({}) is None


@pytest.mark.parametrize("name", ["cfg", "apg", "adaptive"])
def test_an_unconditional_model_cannot_be_guided_by_labels(name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}: .*without labels; take pag"):
        built({name: {}}, null_label=None, label_dropout=0.0)


@pytest.mark.parametrize("name", ["cfg", "apg", "adaptive"])
def test_a_model_trained_without_label_dropout_has_no_null_prediction(name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}: .*never saw the null label.*label dropout"):
        built({name: {}}, label_dropout=0.0)
    assert built({name: {"scale": 1.0}}, label_dropout=0.0) is not None


def test_perturbed_attention_needs_attention() -> None:
    with pytest.raises(UserError, match=r"pag: .*no self-attention.*cfg or apg"):
        built({"pag": {}}, has_attention=False)
    assert built({"pag": {}}, null_label=None, label_dropout=0.0) is not None


def test_classifier_guidance_needs_a_classifier() -> None:
    with pytest.raises(UserError, match="classifier: no classifier given"):
        built({"classifier": {}})


def test_the_mean_form_needs_steps_with_noise() -> None:
    with pytest.raises(UserError, match=r"form mean .* take the solver ddpm, or ddim with eta above 0"):
        built({"classifier": {"form": "mean"}}, log_prob=log_prob)
    made = built({"classifier": {"form": "mean"}}, log_prob=log_prob, mean_gain=torch.square)
    assert made == Composed((Classifier(1.0, log_prob, torch.square),), 10)
