"""From records of pictures to figures: accuracies with intervals, and what must be said beside them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gentool.attacks.options import Attack

Z95 = 1.959963984540054
MASKED = 0.05
"""Share of zero gradients from which an attack is not to be believed."""
STAGES = {"clean": "clean", "attacked": "robust"}


def wilson(right: float, count: int, z: float = Z95) -> dict[str, float]:
    """The share right / count with its interval (Wilson 1927), `{value, low, high}`, 95 % by default.

    `right` may be a sum of shares in [0, 1], one a picture: their variance is at most the binomial one, so that the
    interval is then wide enough. Draws of one picture are not independent pictures, and are not counted as such.
    """
    p = right / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + (z / (2 * count)) ** 2) / (1 + z * z / count)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return {"value": p, "low": min(low, p), "high": max(high, p)}


def mean(read: Sequence[int], label: int) -> float:
    """Share of draws that read the label: what one submission meets, on average."""
    return sum(r == label for r in read) / len(read)


def worst(read: Sequence[int], label: int) -> float:
    """Whether every draw reads the label: what an attacker meets who may submit N times."""
    return float(all(r == label for r in read))


def vote(read: Sequence[int], label: int) -> float:
    """Whether the label has more draws than any other class: a defence that asks itself N times."""
    counts = Counter(read)
    return float(counts[label] > max((n for r, n in counts.items() if r != label), default=0))


RULES: dict[str, Callable[[Sequence[int], int], float]] = {"mean": mean, "worst": worst, "vote": vote}


def accuracies(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """{victim: {clean | robust: {mean | worst | vote: {value, low, high}}}}, shares of pictures."""
    names = list(records[0]["victims"])
    return {
        name: {
            told: {
                rule: wilson(sum(judge(r["victims"][name][stage], r["label"]) for r in records), len(records))
                for rule, judge in RULES.items()
            }
            for stage, told in STAGES.items()
        }
        for name in names
    }


def gradients(records: Sequence[Mapping[str, Any]], victim: str) -> dict[str, float]:
    """How many gradients the attack on a victim asked for, and the shares that were zero or not finite."""
    asked, zero, broken = (
        sum(r["victims"][victim][key] for r in records) for key in ("gradients", "zero", "broken")
    )
    of = max(asked, 1)
    return {"asked": asked, "zero_share": zero / of, "broken_share": broken / of}


def warnings(records: Sequence[Mapping[str, Any]], attack: Attack, planned: int) -> list[str]:
    """What a reader must know before believing the figures."""
    told = []
    for victim, name in (("defence", "defence"), ("none", "bare classifier")):
        met = gradients(records, victim)
        if met["zero_share"] > MASKED:
            told.append(
                f"gradient masking suspected: {met['zero_share']:.1%} of the gradients of the {name} are zero; the "
                "robust accuracy is not a claim of robustness (try apgd-dlr, whose gradient confidence cannot hide)"
            )
        if met["broken_share"] > 0:
            told.append(
                f"{met['broken_share']:.1%} of the gradients of the {name} are not finite, and were taken for zero"
            )
    if attack.route in ("transfer", "bpda"):
        told.append(
            f"the attack used no gradient of the defence ({attack.gradient}): an attacker who knows it does better; "
            "see --attack pgd or apgd-ce"
        )
    if len(records) < planned:
        told.append(
            f"{len(records)} of {planned} pictures were judged; the same command goes on with the rest"
        )
    bare = accuracies(records)["none"]
    if bare["robust"]["mean"]["value"] > 0.5 * bare["clean"]["mean"]["value"]:
        told.append(
            "the bare classifier keeps more than half of its accuracy under this attack: the threat is too small, or "
            "the attack too weak, for a defence to be judged by it"
        )
    return told


UPPER_BOUND = (
    "A robust accuracy is an upper bound: a stronger attack lowers it. Purification by diffusion was published with "
    "70.6 % on CIFAR-10 (2205.07460, Linf 8/255) and fell to 46.8 % under better gradients and averaging (2303.09051); "
    "what is left rests on randomness that an attacker may ask for again: see the worst of N."
)
