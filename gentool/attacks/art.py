"""Attacks of the adversarial-robustness-toolbox, as the independent check: Square, and its AutoAttack.

The library is told nothing of randomness: it is handed a module that averages the defence's log-probabilities over
fresh draws, so that its gradients are averaged too. It draws from numpy's global state, which is seeded here and put
back; what it finds depends on the batch, unlike gentool's own attacks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gentool.attacks.defence import Defence
from gentool.attacks.options import Attack
from gentool.attacks.threat import Threat
from gentool.errors import UserError
from gentool.noise import mix

QUERIES = 50
"""Square's queries an iteration of AutoAttack: 5000 beside 100 iterations, as published."""
WORD = {"linf": np.inf, "l2": 2}


def toolbox(name: str) -> Any:
    """A module of the toolbox.

    Raises:
        UserError: it is not installed; says how to get it.
    """
    try:
        return import_module(f"art.{name}")
    except ImportError as error:
        raise UserError(
            f"the attacks square and autoattack need the adversarial-robustness-toolbox ({error}): "
            "pip install 'gentool[art]'"
        ) from None


class Averaged(nn.Module):
    """log of the mean probabilities of `copies` draws, every call with fresh ones: x (B, C, H, W) -> (B, K)."""

    def __init__(self, defence: Defence, copies: int, seed: int, rows: int) -> None:
        super().__init__()
        self.defence, self.seed, self.rows = defence, seed, rows
        self.copies = copies if defence.random else 1
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        first, self.asked = self.asked, self.asked + 1
        found = []
        for part in torch.arange(len(x) * self.copies).split(self.rows):
            picture, copy = part // self.copies, part % self.copies
            logits = self.defence(
                x[picture.to(x.device)], picture.tolist(), mix(self.seed, "call", first), copy.tolist()
            )
            found.append(logits.log_softmax(1))
        copies = torch.cat(found).unflatten(0, (len(x), self.copies))
        return copies.logsumexp(1) - np.log(self.copies)


def generate(
    attack: Attack, defence: Defence, x: Tensor, label: Tensor, threat: Threat, *, seed: int, rows: int
) -> Tensor:
    """The toolbox's adversarial pictures (B, C, H, W) for x, brought into the threat exactly.

    Raises:
        UserError: the toolbox is not installed.
    """
    estimators, evasion = toolbox("estimators.classification"), toolbox("attacks.evasion")
    module = Averaged(defence, attack.eot, seed, rows)
    with torch.no_grad():
        classes = module(x[:1]).shape[1]
    with _seeded(seed):
        estimator = estimators.PyTorchClassifier(
            model=module,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(x.shape[1:]),
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if x.is_cuda else "cpu",
        )
        make = _square if attack.algorithm == "square" else _autoattack
        found = make(evasion, estimator, attack, threat, len(x)).generate(
            x=x.cpu().numpy(), y=label.cpu().numpy()
        )
    return threat.project(torch.from_numpy(np.ascontiguousarray(found)).to(x), x)


def _square(evasion: Any, estimator: Any, attack: Attack, threat: Threat, batch: int) -> Any:
    return evasion.SquareAttack(
        estimator=estimator,
        norm=WORD[threat.norm],
        eps=threat.eps,
        max_iter=attack.iterations,
        nb_restarts=attack.restarts,
        batch_size=batch,
        verbose=False,
    )


def _autoattack(evasion: Any, estimator: Any, attack: Attack, threat: Threat, batch: int) -> Any:
    norm = WORD[threat.norm]
    climbs = [
        evasion.AutoProjectedGradientDescent(
            estimator=estimator,
            norm=norm,
            eps=threat.eps,
            eps_step=2 * threat.eps,
            max_iter=attack.iterations,
            nb_random_init=1,
            batch_size=batch,
            loss_type=loss,
            verbose=False,
        )
        for loss in ("cross_entropy", "difference_logits_ratio")
    ]
    square = evasion.SquareAttack(
        estimator=estimator,
        norm=norm,
        eps=threat.eps,
        max_iter=QUERIES * attack.iterations,
        nb_restarts=1,
        batch_size=batch,
        verbose=False,
    )
    return evasion.AutoAttack(
        estimator=estimator,
        norm=norm,
        eps=threat.eps,
        eps_step=2 * threat.eps,
        attacks=[*climbs, square],
        batch_size=batch,
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global states that the toolbox draws from, seeded, and put back at the end."""
    numbers, plain = np.random.get_state(), random.getstate()
    np.random.seed(mix(seed, "toolbox") % 2**32)
    random.seed(mix(seed, "toolbox"))
    try:
        yield
    finally:
        np.random.set_state(numbers)
        random.setstate(plain)
