"""One attack on three classifiers: bare, behind noise alone, and behind the defence; and how each then reads.

The bare classifier shows that the attack works, noise alone what the model adds to noise. A picture is judged by N
fresh draws before and after the attack; what its record says depends on the picture's number and the seed, not on its
batch (the toolbox's attacks apart).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gentool.attacks import climb
from gentool.attacks.defence import Defence, Logits, NoiseOnly, Purified, StraightThrough, Undefended
from gentool.attacks.expectation import Expectation, Tally
from gentool.attacks.losses import cross_entropy, dlr
from gentool.attacks.options import Attack
from gentool.attacks.threat import Threat, check_pictures
from gentool.errors import UserError
from gentool.noise import mix

NONE, NOISE, DEFENCE = "none", "noise", "defence"


@dataclass(frozen=True)
class Victim:
    """A classifier under attack: the one that is `judged`, and what the attacker is `shown` in its place."""

    name: str
    judged: Defence
    shown: Defence


@dataclass(frozen=True)
class Found:
    """Attacked pictures (B, C, H, W) in [0, 1], and of own attacks what gradients they met."""

    x: Tensor
    tally: Tally


@dataclass(frozen=True)
class Campaign:
    """An attack under a threat on each of the victims.

    Attributes:
        draws: fresh draws by which a picture is judged. rows: most copies of pictures in one pass.
    """

    attack: Attack
    threat: Threat
    victims: tuple[Victim, ...]
    draws: int
    seed: int
    rows: int = 256

    def run(
        self, x: Tensor, label: Tensor, indices: Sequence[int]
    ) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        """Records of the pictures x (B, C, H, W) in [0, 1], and the attacked pictures by victim."""
        check_pictures(x, "the pictures to attack")
        records: list[dict[str, Any]] = [
            {"index": i, "label": int(y), "victims": {}} for i, y in zip(indices, label, strict=True)
        ]
        found: dict[int, Found] = {}  # victims that show the attacker the same thing are attacked once
        for victim in self.victims:
            if id(victim.shown) not in found:
                found[id(victim.shown)] = self.strike(victim.shown, x, label, indices)
            hit = found[id(victim.shown)]
            clean, attacked = (self.read(victim.judged, seen, indices) for seen in (x, hit.x))
            distance = self.threat.distance(hit.x, x)
            for row, record in enumerate(records):
                record["victims"][victim.name] = {
                    "clean": clean[row].tolist(),
                    "attacked": attacked[row].tolist(),
                    "distance": float(distance[row]),
                    "gradients": int(hit.tally.asked[row]),
                    "zero": int(hit.tally.zero[row]),
                    "broken": int(hit.tally.broken[row]),
                }
        return records, {victim.name: found[id(victim.shown)].x for victim in self.victims}

    def strike(self, shown: Defence, x: Tensor, label: Tensor, indices: Sequence[int]) -> Found:
        """The attack's pictures, asserted to be within the threat."""
        seed, attack = mix(self.seed, "attack"), self.attack
        if not attack.by_gradient:
            from gentool.attacks import art

            y = art.generate(attack, shown, x, label, self.threat, seed=seed, rows=self.rows)
            assert self.threat.within(y, x), "an attack left its ball"
            return Found(y, Tally.of(len(x)))
        loss = dlr if attack.algorithm == "apgd-dlr" else cross_entropy
        expectation = Expectation(shown, loss, indices, label, attack.eot, seed, self.rows)
        steps = (
            climb.pgd(attack.iterations, attack.step * self.threat.eps)
            if attack.algorithm == "pgd"
            else climb.apgd(attack.iterations)
        )
        best = climb.attack(
            expectation,
            x,
            self.threat,
            steps,
            restarts=attack.restarts,
            random_start=attack.random_start,
            seed=seed,
        )
        return Found(best.x, expectation.tally)

    @torch.no_grad()
    def read(self, judged: Defence, x: Tensor, indices: Sequence[int]) -> Tensor:
        """(B, N) classes read in N fresh draws, the same for a picture before and after; N = 1 without noise."""
        draws = self.draws if judged.random else 1
        copies = torch.arange(len(x) * draws, device=x.device)
        read = [
            judged(
                x[part // draws],
                [indices[i] for i in (part // draws).tolist()],
                mix(self.seed, "judge"),
                (part % draws).tolist(),
            ).argmax(1)
            for part in copies.split(self.rows)
        ]
        return torch.cat(read).view(len(x), draws).cpu()


def victims(
    attack: Attack, logits: Logits, defence: Purified, *, sigma: float, surrogate: Purified | None = None
) -> tuple[Victim, ...]:
    """The three classifiers, and what this attack's route shows of each.

    Args:
        sigma: of the noise in the control, in units of [-1, 1]: that of the defence's own jump.
        surrogate: stands for the defence where the route is `surrogate`.
    """
    bare, noisy = Undefended(logits), NoiseOnly(logits, sigma)
    if attack.route == "transfer":
        return (Victim(NONE, bare, bare), Victim(NOISE, noisy, bare), Victim(DEFENCE, defence, bare))
    shown: Defence = defence
    if attack.route == "bpda":
        shown = StraightThrough(defence)
    elif attack.route == "surrogate":
        if surrogate is None:
            raise ValueError("the route `surrogate` needs one")
        shown = surrogate
    return (Victim(NONE, bare, bare), Victim(NOISE, noisy, noisy), Victim(DEFENCE, defence, shown))


def check_clean(logits: Logits, x: Tensor, label: Tensor, rows: int = 256) -> list[str]:
    """What is doubtful about the classifier on untouched pictures x (N, C, H, W) in [0, 1].

    Raises:
        UserError: it reads hardly more than by chance (labels off by one, another range or another data set): an
            attack would prove nothing.
    """
    check_pictures(x, "the pictures to attack")
    with torch.no_grad():
        said = torch.cat([logits(2 * part - 1) for part in x.split(rows)]).cpu()
    truth, classes = label.cpu(), said.shape[1]
    if int(truth.min()) < 0 or int(truth.max()) >= classes:
        raise UserError(
            f"labels reach from {int(truth.min())} to {int(truth.max())}, but the classifier tells 0 to "
            f"{classes - 1} apart: are they counted from 1?"
        )
    read = said.argmax(1)

    def accuracy(shift: int) -> float:
        return float((read == (truth + shift) % classes).double().mean())

    found = accuracy(0)
    if found < 1.5 / classes:
        off = max((-1, 1), key=accuracy)
        hint = (
            f"; with every label {off:+d} it would be {accuracy(off):.1%}: the labels are off by one"
            if accuracy(off) >= max(1.5 / classes, 2 * found)
            else ": is it a classifier of these data, in this range of pixels?"
        )
        raise UserError(
            f"the undefended classifier reads {found:.1%} of the untouched pictures right, chance is "
            f"{1 / classes:.1%}{hint}"
        )
    if bool((said >= 0).all()) and bool(((said.sum(1) - 1).abs() < 1e-4).all()):
        return [
            "the classifier's outputs look like probabilities: attacks need logits, and are weaker without"
        ]
    return []
