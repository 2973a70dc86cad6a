"""Classifier guidance: Bayes' rule, exact for Gaussians."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

from gentool.diffusion.guidance.classifier import Classifier
from gentool.diffusion.guidance.classifier_free import ClassifierFree
from gentool.diffusion.guidance.compose import compose
from gentool.diffusion.predictor import Predictor
from gentool.errors import UserError

from .toys import Gaussian, heun, karras, mixture, predictor, states

PRIOR = Gaussian(0.5, 0.8)
TAU = 0.4
SEEN = torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64)  # what each label stands for
LABEL = torch.arange(3)
POSTERIOR_VARIANCE = 1 / (1 / TAU**2 + 1 / PRIOR.std**2)
POSTERIOR_MEAN = (SEEN / TAU**2 + PRIOR.mean / PRIOR.std**2) * POSTERIOR_VARIANCE


def log_prob(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
    """log N(y; E[x0 | x], Var[x0 | x] + tau^2) of an observation y = x0 + tau n, at the canonical state."""
    s = sigma.square()
    variance = PRIOR.std**2 * s / (PRIOR.std**2 + s) + TAU**2
    return -((SEEN[label] - PRIOR(x, sigma)[:, 0]).square() / variance + variance.log()) / 2


def bayes(scale: float = 1.0, log_p: Callable[[Tensor, Tensor, Tensor], Tensor] = log_prob) -> Predictor:
    return Predictor(
        lambda x, sigma, label: PRIOR(x, sigma),
        guidance=compose([Classifier(scale, log_p)]),
        label=LABEL,
        dtype=torch.float64,
    )


@pytest.mark.parametrize("sigma", [0.01, 0.5, 3.0, 80.0])
def test_the_guided_denoiser_of_a_gaussian_is_that_of_its_posterior(sigma: float) -> None:
    x = states(3, 1) * sigma + 0.2
    exact = (x * POSTERIOR_VARIANCE + POSTERIOR_MEAN[:, None] * sigma**2) / (POSTERIOR_VARIANCE + sigma**2)
    predict = bayes()
    torch.testing.assert_close(predict(x, sigma), exact, rtol=1e-11, atol=1e-12)
    assert predict.nfe == 1


def test_the_guided_ode_ends_at_the_posterior() -> None:
    """N(m, v + 80^2) at the start, m and v the posterior's, must become N(m, v); the ODE is affine."""
    m, v = POSTERIOR_MEAN[:, None], POSTERIOR_VARIANCE
    centre = heun(bayes(), m, karras(512))
    one = heun(bayes(), m + math.sqrt(80**2 + v), karras(512))
    torch.testing.assert_close(centre, m, rtol=0, atol=1e-10)
    torch.testing.assert_close(one - centre, torch.full_like(m, math.sqrt(v)), rtol=1e-4, atol=0)


def test_a_classifier_of_the_variance_preserving_state_gets_its_alpha_from_the_chain_rule() -> None:
    """D + (std^2 / alpha) grad_{x_t} log p(y | x_t), the form for x_t = alpha x and std = alpha sigma."""
    sigma = 1.5
    alpha = 1 / math.sqrt(1 + sigma**2)
    std = alpha * sigma
    x = states(3, 1)

    def of_x_t(x_t: Tensor) -> Tensor:
        return log_prob(x_t / alpha, torch.full((3,), sigma, dtype=torch.float64), LABEL)

    x_t = (alpha * x).requires_grad_()
    (gradient,) = torch.autograd.grad(of_x_t(x_t).sum(), x_t)
    plain = PRIOR(x, torch.full((3,), sigma, dtype=torch.float64))
    guided = bayes(log_p=lambda x, sigma, label: of_x_t(alpha * x))(x, sigma)
    torch.testing.assert_close(guided, plain + std**2 / alpha * gradient, rtol=1e-12, atol=1e-13)


def test_the_exact_classifier_of_a_mixture_turns_the_unconditional_model_into_the_conditional() -> None:
    model, classes = mixture(), 8
    label = torch.arange(5)
    x = states(5) * 2

    def log_p(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        distance = (x[:, None] - model.means).square().sum(-1)
        logits = -distance / (2 * (sigma.square()[:, None] + model.std**2))
        return torch.log_softmax(logits, 1).gather(1, label[:, None])[:, 0]

    guidance = compose([ClassifierFree(0.0), Classifier(1.0, log_p)], classes)
    predict = predictor(model, guidance, label)
    torch.testing.assert_close(predict(x, 1.5), predictor(model, None, label)(x, 1.5), rtol=0, atol=1e-11)
    assert predict.nfe == 1


def test_the_correction_is_linear_in_the_scale_and_0_leaves_the_prediction_alone() -> None:
    x = states(3, 1)
    plain = PRIOR(x, torch.full((3,), 2.0, dtype=torch.float64))
    assert torch.equal(bayes(0.0)(x, 2.0), plain)
    torch.testing.assert_close(
        bayes(3.0)(x, 2.0) - plain, 3 * (bayes()(x, 2.0) - plain), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_samplers_without_gradients_get_the_same_and_keep_no_graph(
    mode: Callable[[], AbstractContextManager[None]],
) -> None:
    """A network as classifier: its weights ask for gradients, and saving inference tensors would fail."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)).double()

    def log_p(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        logits = network(torch.stack([x[:, 0], sigma.log() * x[:, 0]], 1))
        return torch.log_softmax(logits, 1).gather(1, label[:, None])[:, 0]

    x = states(3, 1)
    expected = bayes(log_p=log_p)(x, 2.0).detach()
    with mode():
        guided = bayes(log_p=log_p)(x * 1, 2.0)
    assert not guided.requires_grad
    torch.testing.assert_close(guided.clone(), expected, rtol=1e-14, atol=0)


def test_gradients_and_tangents_pass_through_the_guided_prediction() -> None:
    """In closed form dD/dx = posterior variance / (posterior variance + sigma^2)."""
    slope = POSTERIOR_VARIANCE / (POSTERIOR_VARIANCE + 4)
    x = states(3, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(bayes()(x, 2.0).sum(), x)
    torch.testing.assert_close(gradient, torch.full_like(gradient, slope))
    tangent = torch.func.jvp(lambda x: bayes()(x, 2.0), (x.detach(),), (torch.ones_like(x),))[1]
    torch.testing.assert_close(tangent, torch.full_like(tangent, slope))


def test_a_half_precision_state_is_classified_in_float32() -> None:
    seen = []

    def log_p(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        seen.extend([x.dtype, sigma.dtype])
        return -x[:, 0].square()

    predict = Predictor(
        lambda x, sigma, label: x,
        guidance=compose([Classifier(1.0, log_p)]),
        label=LABEL,
        dtype=torch.bfloat16,
    )
    assert predict(torch.ones(3, 1), 1.0).dtype == torch.float32
    assert seen == [torch.float32, torch.float32]


def test_without_labels_it_says_what_to_do() -> None:
    predict = Predictor(lambda x, sigma, label: x, guidance=compose([Classifier(1.0, log_prob)]))
    with pytest.raises(UserError, match="--label"):
        predict(torch.ones(3, 1), 1.0)


def test_a_classifier_that_mixes_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="log_prob gave"):
        bayes(log_p=lambda x, sigma, label: x.sum())(states(3, 1), 1.0)
