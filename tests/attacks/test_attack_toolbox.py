"""Attacks of the adversarial-robustness-toolbox: through a stand-in, and through itself where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from gentool.attacks import climb
from gentool.attacks.art import Averaged, generate, toolbox
from gentool.attacks.campaign import Campaign, victims
from gentool.attacks.defence import NoiseOnly, Undefended
from gentool.attacks.expectation import Expectation
from gentool.attacks.losses import cross_entropy
from gentool.attacks.options import choose
from gentool.attacks.threat import Threat
from gentool.errors import UserError
from tests.attacks.victims import Shrinking, linear, logits_of, pictures, purified


class Estimator:
    def __init__(self, model: Any, **options: Any) -> None:
        self.model, self.options = model, options

    def predict(self, x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.model(torch.from_numpy(x)).numpy()


class Search:
    """Random search over corners of the ball, a little beyond it, from numpy's global state."""

    def __init__(
        self, estimator: Estimator, *, eps: float, max_iter: int = 0, attacks: Any = (), **options: Any
    ) -> None:
        self.estimator, self.eps, self.rounds = estimator, eps, max_iter or attacks[-1].rounds
        self.attacks, self.options = attacks, options

    def generate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        best, rows = x.copy(), np.arange(len(x))
        score = self.estimator.predict(x)[rows, y]
        for _ in range(self.rounds):
            tried = (x + 1.5 * self.eps * np.random.choice([-1, 1], x.shape)).astype(np.float32)
            found = self.estimator.predict(tried)[rows, y]
            best[found < score] = tried[found < score]
            score = np.minimum(found, score)
        return best


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {name: ModuleType(name) for name in ("art", "art.estimators", "art.attacks")}
    classification, evasion = ModuleType("art.estimators.classification"), ModuleType("art.attacks.evasion")
    classification.PyTorchClassifier = Estimator  # type: ignore[attr-defined]
    for name in ("SquareAttack", "AutoAttack", "AutoProjectedGradientDescent"):
        setattr(evasion, name, Search)
    for module in (*modules.values(), classification, evasion):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_a_missing_toolbox_is_told_with_how_to_get_it(hide: Callable[[str], None]) -> None:
    hide("art")
    with pytest.raises(UserError, match=r"pip install 'gentool\[art\]'"):
        toolbox("attacks.evasion")


def test_the_module_it_is_given_averages_probabilities_over_fresh_draws() -> None:
    weights, bias = linear()
    x = pictures(3)
    noisy = NoiseOnly(logits_of(weights, bias), 0.5)
    module = Averaged(noisy, copies=400, seed=0, rows=64)
    first, second = module(x), module(x)
    assert torch.allclose(first.exp().sum(1), torch.ones(3), atol=1e-5)
    assert not torch.equal(first, second)
    assert (first.exp() - second.exp()).abs().max() < 0.1
    bare = Averaged(Undefended(logits_of(weights, bias)), copies=400, seed=0, rows=64)
    assert bare.copies == 1
    assert torch.allclose(bare(x), logits_of(weights, bias)(2 * x - 1).log_softmax(1), atol=1e-6)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("name", ["square", "autoattack"])
def test_its_pictures_are_brought_into_the_ball_and_its_randomness_is_seeded(name: str) -> None:
    weights, bias = linear()
    x, attack = pictures(8), choose(name, iterations=4)
    label = logits_of(weights, bias)(2 * x - 1).argmax(1)
    bare, threat = Undefended(logits_of(weights, bias)), Threat("linf", 0.15)
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    found = [generate(attack, bare, x, label, threat, seed=s, rows=64) for s in (0, 0, 1)]
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]
    assert threat.within(found[0], x)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert (bare(found[0], [], 0, []).argmax(1) != label).any()


@pytest.mark.usefixtures("stand_in")
def test_a_campaign_by_the_toolbox() -> None:
    weights, bias = linear()
    x, attack = pictures(8), choose("square", iterations=10)
    label = logits_of(weights, bias)(2 * x - 1).argmax(1)
    three = victims(
        attack, logits_of(weights, bias), purified(weights, bias, Shrinking(graph=False)), sigma=0.3
    )
    records, hit = Campaign(attack, Threat("linf", 0.2), three, 3, 0).run(x, label, list(range(8)))
    assert all(Threat("linf", 0.2).within(y, x) for y in hit.values())
    assert all(record["victims"]["defence"]["gradients"] == 0 for record in records)


@pytest.mark.golden
def test_own_auto_pgd_against_the_toolbox() -> None:
    """Robust accuracy of a small network within 4 points of the toolbox's own Auto-PGD."""
    pytest.importorskip("art")
    from art.attacks.evasion import AutoProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3)
    )
    x = pictures(200, low=0.0, high=1.0)
    label, threat = network(2 * x - 1).argmax(1), Threat("linf", 0.1)
    expectation = Expectation(Undefended(network), cross_entropy, range(200), label, 1, 0)
    own = climb.attack(expectation, x, threat, climb.apgd(100), restarts=1, random_start=True, seed=0)
    estimator = PyTorchClassifier(
        torch.nn.Sequential(Scale(), network),
        torch.nn.CrossEntropyLoss(),
        (1, 4, 4),
        3,
        clip_values=(0.0, 1.0),
    )
    theirs = AutoProjectedGradientDescent(
        estimator,
        eps=0.1,
        eps_step=0.2,
        max_iter=100,
        nb_random_init=1,
        loss_type="cross_entropy",
        verbose=False,
    ).generate(x=x.numpy(), y=label.numpy())
    standing = [
        (network(2 * y - 1).argmax(1) == label).double().mean().item()
        for y in (own.x, torch.from_numpy(theirs))
    ]
    assert standing[0] <= standing[1] + 0.04


class Scale(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x - 1
