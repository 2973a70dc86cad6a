"""Perturbed-attention guidance, on a one-layer attention network."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gentool.diffusion.guidance.classifier_free import ClassifierFree
from gentool.diffusion.guidance.compose import PERTURBED, Rule, compose
from gentool.diffusion.guidance.perturbed import Perturbed
from gentool.diffusion.predictor import Predictor

WIDTH, TOKENS, NULL = 6, 5, 3


class Attention:
    """x (B, tokens, width) -> softmax(map) V W_o, with a label and a level mixed in; `sharpness` adds to the
    diagonal of the map, and its limit is the identity."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (5, WIDTH, WIDTH)
        weights = torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(WIDTH)
        self.q, self.k, self.v, self.o, self.table = weights

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None, sharpness: float = 0.0) -> Tensor:
        given = 0 if label is None else self.table[label][:, None]
        x = x / (1 + sigma.square())[:, None, None] + given
        scores = (x @ self.q) @ (x @ self.k).transpose(1, 2) / math.sqrt(WIDTH)
        scores = scores + sharpness * torch.eye(x.shape[1], dtype=x.dtype)
        return torch.softmax(scores, -1) @ (x @ self.v) @ self.o

    def perturbed(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        given = 0 if label is None else self.table[label][:, None]
        return (x / (1 + sigma.square())[:, None, None] + given) @ self.v @ self.o


NETWORK = Attention()
X = torch.randn(4, TOKENS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABEL = torch.arange(4) % NULL


def guided(rule: Perturbed, x: Tensor = X, label: Tensor | None = LABEL) -> tuple[Tensor, float]:
    predict = Predictor(
        NETWORK,
        variants={PERTURBED: NETWORK.perturbed},
        guidance=compose([rule], NULL),
        label=label,
        dtype=torch.float64,
    )
    return predict(x, 0.5), predict.nfe


def sigma() -> Tensor:
    return torch.full((4,), 0.5, dtype=torch.float64)


def test_the_identity_map_is_the_limit_of_a_softmax_with_a_huge_diagonal() -> None:
    """What is called perturbed is attention of every token to itself, and not a skipped layer."""
    limit = NETWORK(X, sigma(), LABEL, sharpness=1e4)
    torch.testing.assert_close(NETWORK.perturbed(X, sigma(), LABEL), limit, rtol=0, atol=1e-12)
    x0, nfe = guided(Perturbed(4.0))
    plain = NETWORK(X, sigma(), LABEL)
    torch.testing.assert_close(x0, plain + 3 * (plain - limit), rtol=0, atol=1e-12)
    assert nfe == 2


def test_identical_tokens_are_not_guided() -> None:
    """Every attention map gives the same mean of equal values."""
    same = X[:, :1].expand_as(X).contiguous()
    x0, _ = guided(Perturbed(4.0), same)
    torch.testing.assert_close(x0, NETWORK(same, sigma(), LABEL), rtol=0, atol=1e-13)
    different, _ = guided(Perturbed(4.0))
    assert (different - NETWORK(X, sigma(), LABEL)).abs().max() > 0.1


def test_scale_1_is_the_plain_prediction_bit_for_bit_at_one_call() -> None:
    x0, nfe = guided(Perturbed(1.0))
    assert torch.equal(x0, NETWORK(X, sigma(), LABEL))
    assert nfe == 1


def test_it_guides_an_unconditional_model() -> None:
    x0, nfe = guided(Perturbed(3.0), label=None)
    plain, weak = NETWORK(X, sigma(), None), NETWORK.perturbed(X, sigma(), None)
    torch.testing.assert_close(x0, weak + 3 * (plain - weak), rtol=0, atol=1e-13)
    assert nfe == 2


def test_with_classifier_free_guidance_the_two_corrections_add_at_three_calls() -> None:
    """D + (w - 1)(D - D_null) + s (D - D_perturbed), s = scale - 1, in either order; D is computed once."""
    plain = NETWORK(X, sigma(), LABEL)
    null = NETWORK(X, sigma(), torch.full_like(LABEL, NULL))
    weak = NETWORK.perturbed(X, sigma(), LABEL)
    expected = plain + 1.5 * (plain - null) + 3 * (plain - weak)
    rules: list[Rule] = [ClassifierFree(2.5), Perturbed(4.0)]
    for order in (rules, rules[::-1]):
        predict = Predictor(
            NETWORK,
            variants={PERTURBED: NETWORK.perturbed},
            guidance=compose(order, NULL),
            label=LABEL,
            dtype=torch.float64,
        )
        torch.testing.assert_close(predict(X, 0.5), expected, rtol=0, atol=1e-12)
        assert predict.nfe == 3
