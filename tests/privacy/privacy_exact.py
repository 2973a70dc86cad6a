"""Exact privacy of single releases, by bisection on the closed-form delta(epsilon). Oracles of the tests."""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.special import log_ndtr, ndtr


def gaussian_epsilon(noise: float, delta: float) -> float:
    """The Gaussian mechanism: Balle and Wang 2018 (arXiv:1805.06530), Theorem 8."""

    def at(epsilon: float) -> float:
        near, far = 1 / (2 * noise) - epsilon * noise, -1 / (2 * noise) - epsilon * noise
        return float(ndtr(near) - math.exp(epsilon + log_ndtr(far)))

    return _solve(at, delta)


def one_step_epsilon(noise: float, rate: float, delta: float) -> float:
    """One Poisson-sampled step: the larger of sup_S P(S) - e^eps Q(S) and its mirror image.

    P = (1-q) N(0, sigma^2) + q N(1, sigma^2) and Q = N(0, sigma^2). Their likelihood ratio grows with z, so
    the best sets S are half-lines that end where it is e^eps (or e^-eps).
    """

    def edge(log_ratio: float) -> float:
        inside = math.exp(log_ratio) - (1 - rate)
        return -math.inf if inside <= 0 else noise**2 * math.log(inside / rate) + 0.5

    def at(epsilon: float) -> float:
        right, left = edge(epsilon), edge(-epsilon)
        mixture_above = (1 - rate) * ndtr(-right / noise) + rate * ndtr((1 - right) / noise)
        mixture_below = (1 - rate) * ndtr(left / noise) + rate * ndtr((left - 1) / noise)
        add = mixture_above - math.exp(epsilon) * ndtr(-right / noise)
        remove = ndtr(left / noise) - math.exp(epsilon) * mixture_below
        return float(max(add, remove))

    return _solve(at, delta)


def _solve(delta_at: Callable[[float], float], delta: float) -> float:
    low, high = 0.0, 100.0
    if delta_at(low) <= delta:
        return 0.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if delta_at(middle) <= delta else (middle, high)
    return low
