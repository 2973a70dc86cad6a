"""What a campaign will cost, before it starts: network calls by counting, seconds by timing one of each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gentool.attacks.campaign import Campaign
from gentool.attacks.defence import Defence
from gentool.attacks.expectation import Expectation
from gentool.attacks.losses import cross_entropy
from gentool.attacks.options import Attack

SQUARE_PASSES = 3
"""Outputs that the toolbox's Square asks for in an iteration, at most."""


@dataclass(frozen=True)
class Cost:
    """Of one picture. `attacks` is False where the toolbox alone knows what its attack takes.

    Attributes:
        network_calls: of the diffusion network; backward passes and replayed steps count as calls.
        seconds: at the speed measured.
    """

    network_calls: int
    seconds: float
    attacks: bool = True

    def document(self, pictures: int) -> dict[str, Any]:
        return {
            "network_calls": self.network_calls * pictures,
            "seconds": self.seconds * pictures,
            "attack_included": self.attacks,
        }


def passes(attack: Attack, random: bool) -> tuple[int, int]:
    """(gradients, outputs) of the shown classifier that one picture takes, copies counted singly."""
    copies = attack.eot if random else 1
    if attack.by_gradient:
        return attack.restarts * attack.iterations * copies, (attack.restarts + 1) * copies
    return 0, SQUARE_PASSES * attack.restarts * attack.iterations * copies


def forecast(campaign: Campaign, x: Tensor, label: Tensor, indices: Sequence[int]) -> Cost:
    """The cost of a picture, with one gradient and one output of each victim timed on the batch x (B, C, H, W)."""
    attack, calls, seconds = campaign.attack, 0, 0.0
    known = attack.algorithm != "autoattack"
    struck = set()
    for victim in campaign.victims:
        shown, judged = victim.shown, victim.judged
        if id(shown) not in struck and known:
            struck.add(id(shown))
            climbs, looks = passes(attack, shown.random)
            calls += climbs * shown.gradient_calls + looks * shown.calls
            if climbs:
                seconds += climbs * _seconds(campaign, shown, x, label, indices, climb=True)
            seconds += looks * _seconds(campaign, shown, x, label, indices, climb=False)
        reads = 2 * (campaign.draws if judged.random else 1)
        calls += reads * judged.calls
        seconds += reads * _seconds(campaign, judged, x, label, indices, climb=False)
    return Cost(calls, seconds, known)


def _seconds(
    campaign: Campaign, defence: Defence, x: Tensor, label: Tensor, indices: Sequence[int], *, climb: bool
) -> float:
    """Seconds a copy of a picture, after a first call on one picture alone."""
    copies = max(1, min(campaign.attack.eot, campaign.rows // len(x)))
    expectation = Expectation(defence, cross_entropy, indices, label, copies, campaign.seed, campaign.rows)
    first = replace(expectation, indices=indices[:1], label=label[:1], copies=1)
    (first.climb if climb else first.look)(x[:1])
    _wait(x.device)
    started = time.perf_counter()
    (expectation.climb if climb else expectation.look)(x)
    _wait(x.device)
    return (time.perf_counter() - started) / (len(x) * expectation.copies)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
