"""Classifier-free guidance: identities, and its known bias in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from gentool.diffusion.guidance.classifier_free import ClassifierFree
from gentool.diffusion.guidance.compose import compose
from gentool.diffusion.predictor import Predictor

from .toys import Gaussian, euler, heun, karras, mixture, predictor, states

NULL = 8
LABEL = torch.arange(6) % NULL


def guided(rule: ClassifierFree, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, float]:
    predict = predictor(mixture(), compose([rule], NULL), LABEL)
    return predict(x, sigma), predict.nfe


def plain(x: Tensor, sigma: float | Tensor, label: Tensor = LABEL) -> Tensor:
    return predictor(mixture(), None, label)(x, sigma)


@pytest.mark.parametrize("w", [-1.0, 0.0, 0.5, 2.0, 7.5])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0])
def test_mixing_x0_eps_v_or_score_is_the_same(w: float, sigma: float) -> None:
    """All are affine in one another with the same offset in both predictions, and the weights sum to 1."""
    x = states(6) * (1 + sigma)
    labelled, null = plain(x, sigma), plain(x, sigma, torch.full_like(LABEL, NULL))
    alpha = 1 / math.sqrt(1 + sigma**2)  # of the variance-preserving process
    std = alpha * sigma
    to = {
        "eps": lambda d: (x - d) / sigma,
        "v": lambda d: alpha * (x - d) / sigma - std * d,
        "score": lambda d: -(x - d) / sigma / std,
    }
    back = {
        "eps": lambda eps: x - sigma * eps,
        "v": lambda v: alpha * (alpha * x) - std * v,
        "score": lambda score: x + sigma * std * score,
    }
    x0, _ = guided(ClassifierFree(w), x, sigma)
    for name, convert in to.items():
        mixed = convert(null) + w * (convert(labelled) - convert(null))
        torch.testing.assert_close(back[name](mixed), x0, rtol=0, atol=1e-12)


def test_scale_1_is_the_plain_prediction_bit_for_bit_at_one_call() -> None:
    x = states(6) * 3
    x0, nfe = guided(ClassifierFree(1.0, rescale=0.7), x, 2.0)
    assert torch.equal(x0, plain(x, 2.0))
    assert nfe == 1


def test_scale_0_is_the_unconditional_prediction_bit_for_bit_at_one_call() -> None:
    x = states(6) * 3
    x0, nfe = guided(ClassifierFree(0.0), x, 2.0)
    assert torch.equal(x0, plain(x, 2.0, torch.full_like(LABEL, NULL)))
    assert nfe == 1


def test_outside_the_interval_it_is_plain_bit_for_bit_and_unpaid_per_sample() -> None:
    x = states(6) * 3
    sigma = torch.tensor([0.1, 0.5, 1.0, 2.0, 3.0, 9.0], dtype=torch.float64)
    inside = torch.tensor([False, True, True, True, False, False])
    x0, nfe = guided(ClassifierFree(3.0, interval=(0.5, 2.0)), x, sigma)
    everywhere, _ = guided(ClassifierFree(3.0), x, sigma)
    assert torch.equal(x0[~inside], plain(x, sigma)[~inside])
    assert torch.equal(x0[inside], everywhere[inside])
    assert nfe == pytest.approx(1 + 3 / 6)


def test_scale_0_in_an_interval_is_unconditional_there_and_conditional_elsewhere() -> None:
    x = states(6) * 3
    sigma = torch.tensor([0.1, 0.5, 1.0, 2.0, 3.0, 9.0], dtype=torch.float64)
    x0, nfe = guided(ClassifierFree(0.0, interval=(0.5, 2.0)), x, sigma)
    null = plain(x, sigma, torch.full_like(LABEL, NULL))
    assert torch.equal(x0[1:4], null[1:4])
    assert torch.equal(x0[[0, 4, 5]], plain(x, sigma)[[0, 4, 5]])
    assert nfe == 1


def test_rescale_1_gives_each_sample_the_plain_standard_deviation() -> None:
    x = states(6) * 3
    labelled = plain(x, 2.0)
    x0, _ = guided(ClassifierFree(6.0, rescale=1.0), x, 2.0)
    torch.testing.assert_close(x0.std(1), labelled.std(1), rtol=1e-12, atol=0)
    full, _ = guided(ClassifierFree(6.0), x, 2.0)
    half, _ = guided(ClassifierFree(6.0, rescale=0.5), x, 2.0)
    torch.testing.assert_close(half, (x0 + full) / 2, rtol=0, atol=1e-12)


def test_rescale_of_a_constant_prediction_is_finite() -> None:
    predict = Predictor(
        lambda x, sigma, label: torch.zeros_like(x),
        guidance=compose([ClassifierFree(2.0, rescale=0.7)], NULL),
        label=LABEL,
    )
    assert torch.equal(predict(torch.ones(6, 3), 1.0), torch.zeros(6, 3))


@pytest.mark.parametrize(("w", "table"), [(2.0, (1.487, 0.366, 1.2195)), (3.0, (1.722, 0.218, 1.3158))])
def test_guided_ode_ends_where_its_closed_form_says_and_not_at_the_tempered_density(
    w: float, table: tuple[float, float, float]
) -> None:
    """q_u = N(0, 1), q_c = N(1, 0.36). The ODE is affine: dx/dsigma = x S'/S - w sigma / (0.36 + sigma^2)
    with S = (0.36 + sigma^2)^(w/2) (1 + sigma^2)^((1-w)/2), so two starts give its law; its std is 0.6^w.
    The table has figures of 8192 particles, and the mean of the tempered density.
    """
    unconditional, conditional = Gaussian(0, 1), Gaussian(1, 0.6)

    def network(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        assert label is not None
        return torch.where((label == 1)[:, None], unconditional(x, sigma), conditional(x, sigma))

    def scale(sigma: float) -> float:
        return (0.36 + sigma**2) ** (w / 2) * (1 + sigma**2) ** ((1 - w) / 2)

    predict = Predictor(
        network, guidance=compose([ClassifierFree(w)], 1), label=torch.zeros(2).long(), dtype=torch.float64
    )
    start = torch.tensor([[1.0], [81.0]], dtype=torch.float64)
    centre, one = heun(predict, start, karras(512))[:, 0].tolist()
    mean, std = centre, one - centre
    integral, _ = quad(lambda s: w * s / ((0.36 + s**2) * scale(s)), 0, 80)
    assert mean == pytest.approx(scale(0) * (1 / scale(80) + integral), abs=1e-4)
    assert std == pytest.approx(80 * scale(0) / scale(80), abs=1e-4)
    assert mean == pytest.approx(table[0], abs=0.01)
    assert std == pytest.approx(table[1], abs=0.01)
    assert mean - table[2] > 0.2
    assert predict.nfe == 2 * (2 * 512 - 1)


def test_guidance_moves_samples_to_their_class_and_beyond() -> None:
    """The mean of class 0's samples leaves the class mean away from the others as w grows."""
    model = mixture()
    x = states(256, seed=3) * 80
    label = torch.zeros(256, dtype=torch.long)
    others = model.means[1:].mean(0)
    away = (model.means[0] - others) / (model.means[0] - others).norm()
    ends = [
        euler(predictor(model, compose([ClassifierFree(w)], NULL), label), x, karras(20)) for w in (1, 2, 4)
    ]
    along = [((end - model.means[0]) @ away).mean().item() for end in ends]
    assert abs(along[0]) < 0.1
    assert along[0] + 0.1 < along[1] < along[2] - 0.1
