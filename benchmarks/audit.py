"""What an attack on a private mechanism proves: lower bounds of epsilon from how often it is right (Jagielski 2020)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

CONFIDENCE = 0.95


def bounds(hits: int, trials: int) -> tuple[float, float]:
    """Clopper and Pearson's bounds of a probability from below and from above, each wrong for (1 - CONFIDENCE)/2.

    One side of each of two probabilities is used, so that both hold together with CONFIDENCE.
    """
    from scipy.stats import beta

    tail = (1 - CONFIDENCE) / 2
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


def proved(caught: int, falsely: int, trials: int, delta: float) -> float:
    """Epsilon below which no (epsilon, delta)-private mechanism shows such rates: TPR <= e^epsilon FPR + delta."""
    true, false = bounds(caught, trials)[0], bounds(falsely, trials)[1]
    return max(0.0, math.log((true - delta) / false)) if true > delta else 0.0


def lower_bound(with_it: Tensor, without: Tensor, delta: float) -> float:
    """Of epsilon, from the attack's scores (trials,) in both worlds, higher where it suspects the record.

    Its threshold, and whether it looks for the record or for its absence, are chosen on half of the trials and
    judged on the other.
    """
    import torch

    trials = len(with_it)
    half, best = trials // 2, (0.0, math.inf, False)
    sides = {False: (with_it, without), True: (-without, -with_it)}  # the record added, and removed
    for removed, (yes, no) in sides.items():
        ranks = torch.unique(torch.logspace(0, math.log10(half / 2), 200).long())
        ordered_yes, ordered_no = (s[:half].sort(descending=True).values for s in (yes, no))
        for threshold in ordered_no[ranks].tolist():
            caught, falsely = (int((s > threshold).sum()) for s in (ordered_yes, ordered_no))
            best = max(best, (proved(caught, falsely, half, delta), threshold, removed))
    _, threshold, removed = best
    caught, falsely = (int((s[half:] > threshold).sum()) for s in sides[removed])
    return proved(caught, falsely, trials - half, delta)
