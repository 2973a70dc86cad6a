"""What attacks there are and what can be set of them; imports no torch, so that it is checked before any work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, get_args

from gentool.errors import UserError, did_you_mean

Norm = Literal["linf", "l2"]
Algorithm = Literal["pgd", "apgd-ce", "apgd-dlr", "square", "autoattack"]
Route = Literal["exact", "bpda", "surrogate", "transfer", "queries"]
LARGEST_EPS = {"linf": 1.0, "l2": 100.0}
DEFAULT_EPS = {"linf": 8 / 255, "l2": 0.5}

ROUTES: dict[str, str] = {
    "exact": "exact gradient through every step of the defence",
    "bpda": "the defence taken for the identity on the way back",
    "surrogate": "exact gradient of a copy of the defence with fewer steps",
    "transfer": "gradient of the classifier alone",
}
"""Where the gradients of an attack come from."""


@dataclass(frozen=True)
class Attack:
    """An attack with all its settings; `ATTACKS` holds the published ones.

    Attributes:
        algorithm: how it climbs. route: where its gradients come from; `queries` asks for outputs alone.
        iterations: steps of a restart (of `square`: queries). eot: fresh draws averaged a gradient.
        step: length of PGD's step, as a share of eps. random_start: whether a restart begins at a random point.
        surrogate_steps: network calls of the surrogate; 0 with every other route.
    """

    name: str
    summary: str
    algorithm: Algorithm
    route: Route
    iterations: int
    eot: int
    restarts: int = 1
    step: float = 0.25
    random_start: bool = True
    surrogate_steps: int = 0

    @property
    def by_gradient(self) -> bool:
        return self.algorithm in ("pgd", "apgd-ce", "apgd-dlr")

    def document(self) -> dict[str, Any]:
        """The settings that count, as a report tells them."""
        told: dict[str, Any] = {
            "name": self.name,
            "algorithm": self.algorithm,
            "gradient": self.gradient,
            "iterations": self.iterations,
            "eot": self.eot,
            "restarts": self.restarts,
        }
        if self.algorithm == "pgd":
            told["step"] = self.step
        return told

    @property
    def gradient(self) -> str:
        """The gradient used, in a word: `exact-replay`, `bpda`, `surrogate(5)`, `transfer`, `none`."""
        words = {
            "exact": "exact-replay",
            "surrogate": f"surrogate({self.surrogate_steps})",
            "queries": "none",
        }
        return words.get(self.route, self.route)


ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack("pgd", "projected gradient descent, Madry et al. 2018, with EOT", "pgd", "exact", 20, 10),
        Attack("apgd-ce", "Auto-PGD on cross-entropy, Croce and Hein 2020", "apgd-ce", "exact", 100, 20),
        Attack("apgd-dlr", "Auto-PGD on the difference of logits ratio", "apgd-dlr", "exact", 100, 20),
        Attack(
            "bpda",
            "PGD with an identity backward pass, Athalye et al. 2018",
            "pgd",
            "bpda",
            50,
            15,
            random_start=False,
        ),
        Attack("surrogate", "PGD through fewer steps, Lee and Kim 2023", "pgd", "surrogate", 20, 20),
        Attack(
            "transfer",
            "PGD on the classifier alone",
            "pgd",
            "transfer",
            40,
            1,
            step=0.1,
            random_start=False,
        ),
        Attack(
            "square",
            "random search without gradients, Andriushchenko et al. 2020",
            "square",
            "queries",
            5000,
            1,
        ),
        Attack("autoattack", "the ensemble of Croce and Hein 2020", "autoattack", "queries", 100, 20),
    )
}
"""Attacks by name, with the settings of their papers; step of `bpda`: 2/255 of 8/255."""


def choose(
    name: str,
    *,
    route: str | None = None,
    iterations: int | None = None,
    eot: int | None = None,
    restarts: int | None = None,
    surrogate_steps: int | None = None,
    defence_steps: int | None = None,
) -> Attack:
    """The attack of this name with what differs from its published settings.

    Args:
        defence_steps: steps of the true defence; a surrogate takes fewer, by default a fifth (Lee and Kim's 20 of
            100). None where they are not known yet: the attack is checked, and chosen again later.

    Raises:
        UserError: no such attack or route, counts below 1, settings that would do nothing.
    """
    if name not in ATTACKS:
        raise UserError(
            f"unknown attack {name!r}{did_you_mean(name, list(ATTACKS))} (there are: {', '.join(ATTACKS)})"
        )
    attack = ATTACKS[name]
    for word, value in (("iterations", iterations), ("eot", eot), ("restarts", restarts)):
        if value is not None and value < 1:
            raise UserError(f"--{word} must be at least 1, not {value}")
    if route is not None:
        if not attack.by_gradient:
            raise UserError(f"--gradient: {name} is not told where its gradients come from")
        if route not in ROUTES:
            raise UserError(
                f"--gradient {route!r}{did_you_mean(route, list(ROUTES))}: there are {', '.join(ROUTES)}"
            )
        attack = replace(attack, route=_route(route))
    if surrogate_steps is not None and attack.route != "surrogate":
        raise UserError(f"--surrogate-steps: {name} attacks no surrogate; add --gradient surrogate")
    if attack.route == "surrogate" and defence_steps is not None:
        attack = replace(attack, surrogate_steps=_surrogate(surrogate_steps, defence_steps))
    if attack.route == "transfer":
        if eot not in (None, 1):
            raise UserError("--eot: the classifier alone draws nothing, so there is nothing to average")
        attack = replace(attack, eot=1)
    if attack.algorithm == "autoattack" and restarts is not None:
        raise UserError("--restarts: AutoAttack has restarts of its own")
    return replace(
        attack,
        iterations=iterations or attack.iterations,
        eot=eot or attack.eot,
        restarts=restarts or attack.restarts,
    )


def _route(name: str) -> Route:
    return next(route for route in get_args(Route) if route == name)


def _surrogate(asked: int | None, steps: int) -> int:
    chosen = max(1, steps // 5) if asked is None else asked
    if not 1 <= chosen < max(steps, 2):
        raise UserError(
            f"--surrogate-steps {chosen}: the defence takes {steps}; a surrogate takes fewer, at least 1"
        )
    return chosen


def parse_eps(text: str, norm: str) -> float:
    """A radius as people write it: `8/255`, `0.03`.

    Raises:
        UserError: no number, or none that `check_eps` takes.
    """
    try:
        eps = float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError):
        raise UserError(
            f"--eps {text!r}: a radius in units of [0, 1] pixels, such as 8/255 or 0.03"
        ) from None
    check_eps(norm, eps)
    return eps


def check_norm(name: str) -> Norm:
    """The norm of this name.

    Raises:
        UserError: there is none.
    """
    for norm in get_args(Norm):
        if norm == name:
            return norm
    raise UserError(f"unknown norm {name!r}{did_you_mean(name, get_args(Norm))} (there are: linf, l2)")


def check_eps(norm: str, eps: float) -> None:
    """Refuses a radius that is none, or is told in units of bytes.

    Raises:
        UserError: with the radius that was probably meant.
    """
    check_norm(norm)
    if not 0 < eps < float("inf"):
        raise UserError(f"eps must be a positive number, not {eps:g}")
    if eps > LARGEST_EPS[norm]:
        meant = f"; did you mean {eps:g}/255?" if eps <= 255 else ""
        raise UserError(f"eps {eps:g} is no radius in units of [0, 1] pixels under {norm}{meant}")
