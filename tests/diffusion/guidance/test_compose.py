"""What holds for every rule: one evaluation for all, and samples that do not know their batch."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from gentool.diffusion.guidance.classifier import Classifier
from gentool.diffusion.guidance.classifier_free import Adaptive, ClassifierFree, Projected
from gentool.diffusion.guidance.compose import PERTURBED, Rule, compose
from gentool.diffusion.guidance.perturbed import Perturbed
from gentool.diffusion.predictor import Predictor
from gentool.errors import UserError

from .toys import karras, mixture, states

NULL = 8
MODEL = mixture()


def worse(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
    return 0.9 * MODEL(x, 1.5 * sigma, label)


def log_prob(x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
    return -(x - MODEL.means[label]).square().sum(1) / (2 * (sigma.square() + 0.3))


RULES: dict[str, list[Rule]] = {
    "cfg": [ClassifierFree(3.0)],
    "cfg, unconditional": [ClassifierFree(0.0)],
    "cfg, interval": [ClassifierFree(3.0, interval=(0.3, 3.0), rescale=0.7)],
    "apg": [Projected(6.0, eta=0.2, momentum=-0.5, radius_rms=0.1)],
    "apg, interval": [Projected(6.0, interval=(0.3, 3.0), momentum=-0.5)],
    "adaptive": [Adaptive(4.0, threshold=0.9)],
    "adaptive, interval": [Adaptive(4.0, interval=(0.3, 3.0), threshold=0.9)],
    "pag": [Perturbed(3.0)],
    "classifier": [Classifier(2.0, log_prob)],
    "all": [Adaptive(4.0, threshold=0.9), Perturbed(1.5), Classifier(0.5, log_prob)],
}


def trajectory(rules: list[Rule], x: Tensor, label: Tensor, steps: int = 12) -> Tensor:
    """Euler with a network in float32, each sample on a grid of its own."""
    predict = Predictor(MODEL, variants={PERTURBED: worse}, guidance=compose(rules, NULL), label=label)
    grid = karras(steps)
    for a, b in pairwise(grid):
        level = a * (1 + 0.05 * label.double())
        d = predict(x, level)
        x = d + (x - d) * (b / a)
    return x


@pytest.mark.parametrize("name", RULES)
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    """Bit for bit: alone, in a batch of three, in one of seven reversed; decisions per sample included."""
    x, label = states(7) * 80, torch.arange(7)
    together = trajectory(RULES[name], x, label)
    assert together.isfinite().all()
    alone = torch.cat([trajectory(RULES[name], x[i : i + 1], label[i : i + 1]) for i in range(7)])
    some = trajectory(RULES[name], x[2:5], label[2:5])
    reverse = trajectory(RULES[name], x.flip(0), label.flip(0)).flip(0)
    assert torch.equal(alone, together)
    assert torch.equal(some, together[2:5])
    assert torch.equal(reverse, together)


@pytest.mark.parametrize("name", RULES)
def test_a_call_is_a_pure_function_of_state_and_memory(name: str) -> None:
    predict = Predictor(
        MODEL, variants={PERTURBED: worse}, guidance=compose(RULES[name], NULL), label=torch.arange(7)
    )
    x = states(7).float()
    before = x.clone()
    predict(x, 2.0)
    memory = predict.memory()
    first = predict(x, 0.5)
    predict.restore(memory)
    assert torch.equal(predict(x, 0.5), first)
    assert torch.equal(x, before)


def test_both_predictions_come_from_one_call_on_a_doubled_batch() -> None:
    batches: list[tuple[int, list[int]]] = []

    def network(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        assert label is not None
        batches.append((len(x), label.tolist()))
        return MODEL(x, sigma, label)

    label = torch.tensor([4, 1, 0])
    predict = Predictor(network, guidance=compose([ClassifierFree(2.0)], NULL), label=label)
    predict(states(3).float(), 1.0)
    assert batches == [(6, [4, 1, 0, 8, 8, 8])]
    assert predict.nfe == 2


def test_only_the_samples_that_need_it_are_evaluated_without_label() -> None:
    batches: list[list[int]] = []

    def network(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        assert label is not None
        batches.append(label.tolist())
        return MODEL(x, sigma, label)

    guidance = compose([ClassifierFree(2.0, interval=(1.0, 2.0))], NULL)
    predict = Predictor(network, guidance=guidance, label=torch.tensor([4, 1, 0]))
    predict(states(3).float(), torch.tensor([0.5, 1.0, 3.0]))
    assert batches == [[4, 1, 0, 8]]
    assert predict.nfe == pytest.approx(4 / 3)


def test_no_rules_are_the_plain_prediction() -> None:
    x, label = states(3), torch.arange(3)
    guided = Predictor(MODEL, guidance=compose([]), label=label, dtype=torch.float64)
    assert torch.equal(guided(x, 1.0), Predictor(MODEL, label=label, dtype=torch.float64)(x, 1.0))
    assert guided.nfe == 1


@pytest.mark.parametrize(
    ("null_label", "label", "message"),
    [
        (None, torch.arange(3), "no labels"),
        (NULL, None, "--label"),
        (NULL, torch.arange(2), "expected 3 labels"),
        (NULL, torch.zeros(3, 1).long(), "expected 3 labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    null_label: int | None, label: Tensor | None, message: str
) -> None:
    predict = Predictor(MODEL, guidance=compose([ClassifierFree(2.0)], null_label), label=label)
    with pytest.raises(UserError, match=message):
        predict(torch.zeros(3, 16), 1.0)
