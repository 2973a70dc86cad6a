"""Adaptive guidance: fewer calls for the same samples."""

from __future__ import annotations

import pytest
import torch

from gentool.diffusion.guidance.classifier_free import Adaptive, ClassifierFree
from gentool.diffusion.guidance.compose import compose
from gentool.diffusion.predictor import Predictor

from .toys import euler, karras, mixture, predictor, states

NULL = 8
GRID = karras(20)


@pytest.fixture(scope="module")
def start() -> torch.Tensor:
    return states(256, seed=3) * 80


@pytest.fixture(scope="module")
def full(start: torch.Tensor) -> torch.Tensor:
    return euler(_predictor(ClassifierFree(4.0), len(start)), start, GRID)


def _predictor(rule: Adaptive | ClassifierFree, count: int) -> Predictor:
    return predictor(mixture(), compose([rule], NULL), torch.zeros(count, dtype=torch.long))


@pytest.mark.parametrize(
    ("threshold", "nfe", "error"), [(0.9, 29.1, 0.022), (0.99, 29.9, 0.0031), (0.999, 30.5, 0.0006)]
)
def test_a_quarter_of_the_calls_goes_and_the_samples_stay(
    start: torch.Tensor, full: torch.Tensor, threshold: float, nfe: float, error: float
) -> None:
    """16-D mixture, Karras 20 steps of Euler, w = 4: figures measured on another mixture of the kind."""
    predict = _predictor(Adaptive(4.0, threshold=threshold), len(start))
    end = euler(predict, start, GRID)
    assert predict.nfe == pytest.approx(nfe, abs=1.0)
    rmse = (end - full).square().mean().sqrt().item()
    assert error / 2 < rmse < error * 2


def test_never_agreeing_is_classifier_free_guidance(start: torch.Tensor, full: torch.Tensor) -> None:
    predict = _predictor(Adaptive(4.0, threshold=1.1), len(start))
    assert torch.equal(euler(predict, start, GRID), full)
    assert predict.nfe == 40


def test_always_agreeing_is_plain_after_the_first_call(start: torch.Tensor) -> None:
    predict = _predictor(Adaptive(4.0, threshold=-1.1), len(start))
    plain = _predictor(ClassifierFree(1.0), len(start))
    x = states(len(start))
    assert torch.equal(predict(x, 2.0), _predictor(ClassifierFree(4.0), len(start))(x, 2.0))
    assert torch.equal(predict(x, 1.0), plain(x, 1.0))
    assert predict.nfe == 3


def test_a_sample_that_agreed_once_is_not_guided_again() -> None:
    """The two predictions are equal at sigma 2 alone; sample 1 comes by there, sample 0 does not."""

    def network(x: torch.Tensor, sigma: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:
        assert label is not None
        apart = ((label == NULL) & (sigma != 2))[:, None]
        return torch.where(apart, -torch.ones_like(x), torch.ones_like(x))

    predict = Predictor(network, guidance=compose([Adaptive(3.0)], NULL), label=torch.tensor([0, 0]))
    x = torch.zeros(2, 4)
    assert predict(x, torch.tensor([5.0, 2.0])).tolist() == [[5.0] * 4, [1.0] * 4]
    assert predict.nfe == 2
    assert predict(x, torch.tensor([4.0, 4.0])).tolist() == [[5.0] * 4, [1.0] * 4]
    assert predict.nfe == 3.5


def test_outside_the_interval_it_neither_guides_nor_decides() -> None:
    """The interval wins: equal predictions there (of which one was computed) do not end the guidance."""
    predict = _predictor(Adaptive(4.0, interval=(0.5, 2.0)), 6)
    x = states(6)
    predict(x, 3.0)
    assert predict.nfe == 1
    assert not predict.memory()[0].any()
    predict(x, 1.0)
    assert predict.nfe == 3


def test_predictions_without_a_direction_keep_the_guidance_finite() -> None:
    predict = Predictor(
        lambda x, sigma, label: torch.zeros_like(x),
        guidance=compose([Adaptive(4.0)], NULL),
        label=torch.zeros(3, dtype=torch.long),
    )
    assert torch.equal(predict(torch.ones(3, 5), 1.0), torch.zeros(3, 5))
