"""The moments of the privacy loss of the Poisson-sampled Gaussian, without cancellation, in plain `math`.

Mironov, Talwar and Zhang 2019 (arXiv:1908.10530), equation 6: Renyi divergence at order a is log A(a) / (a -
1) with

    A(a) = E[(1 + q u)^a],    u = exp((2z - 1) / (2 sigma^2)) - 1,    z ~ N(0, sigma^2).

The paper's series for fractional a alternates in sign, and truncated or bounded forms of it err by up to
several per cent. Here only sums of positive terms occur: as E[u] = 0, A(a) - 1 = E[(1 + q u)^a - 1 - a q u],
and the bracket is never negative (Bernoulli's inequality).
"""

from __future__ import annotations

import math
from functools import lru_cache

from gentool.privacy.mechanisms import SampledGaussian

_TAIL = 14.0
"""Standard deviations of z beyond which the integrand is negligible (e^-98 of its peak)."""
_DIGITS = 60.0
"""The quadrature's error is about e^-60 of the integrand's size near the real line."""
_LARGE = 30.0
"""Where expm1(x) and exp(x) agree in double precision, taken in logarithms."""


@lru_cache(maxsize=1 << 15)
def log_moment(mechanism: SampledGaussian, order: float) -> float:
    """log A(a) of one step at order `a` > 1; convex in `a`, and (a - 1) times the Renyi divergence.

    Integer orders by the binomial sum, whose terms are positive once the k = 0 and 1 terms are taken to the
    left; fractional ones by quadrature. Relative error about 1e-12, however small the sample rate.
    """
    q, sigma = mechanism.sample_rate, mechanism.noise_multiplier
    if q == 1:
        return order * (order - 1) / (2 * sigma**2)
    if float(order).is_integer():
        log_excess = _binomial(int(order), q, sigma)
    else:
        log_excess = _quadrature(order, q, sigma)
    return _softplus(log_excess)


def _binomial(a: int, q: float, sigma: float) -> float:
    """log of A - 1 = sum_{k=2..a} C(a, k) (1-q)^(a-k) q^k expm1((k^2 - k) / (2 sigma^2))."""
    log_q, log_rest, log_factorial = math.log(q), math.log1p(-q), math.lgamma(a + 1)
    return _logsumexp(
        [
            log_factorial
            - math.lgamma(k + 1)
            - math.lgamma(a - k + 1)
            + k * log_q
            + (a - k) * log_rest
            + _log_expm1((k * k - k) / (2 * sigma**2))
            for k in range(2, a + 1)
        ]
    )


def _quadrature(a: float, q: float, sigma: float) -> float:
    """log of A - 1 = E[(1 + q u)^a - 1 - a q u] by the trapezoid rule, which is spectral here.

    Beside the Gaussian, the integrand is first constant, then like u^2, then like u^a: its mass is near z =
    0, 2 or a, or between the last two. It is analytic but for the branch points of the power, pi sigma^2 off
    the real axis; in a strip of half-width d the error is e^(d^2 / 2 sigma^2 - 2 pi d / step). The step keeps
    that at e^-60, with d at the branch point or, for large sigma, at its best. For sigma < 0.08 sigma / 40
    will do: the mass is then far from there.
    """
    branch = 2 * (math.pi * sigma) ** 2 / (_DIGITS + (math.pi * sigma) ** 2 / 2)
    step = max(min(branch, math.pi * sigma * math.sqrt(2 / _DIGITS)), sigma / 40)
    reach = math.ceil(_TAIL * sigma / step)
    centres = {round(peak / step) for peak in (0.0, 2.0, a)}
    points = {centre + i for centre in centres for i in range(-reach, reach + 1)}
    log_q = math.log(q)
    terms = [
        _log_bracket(a, q, log_q, (2 * i * step - 1) / (2 * sigma**2)) - (i * step / sigma) ** 2 / 2
        for i in points
    ]
    return _logsumexp(terms) + math.log(step / (sigma * math.sqrt(2 * math.pi)))


def _log_bracket(a: float, q: float, log_q: float, w: float) -> float:
    """log of (1 + v)^a - 1 - a v with v = q (e^w - 1); never negative for a > 1."""
    if w > _LARGE:
        log_v = log_q + w
        v = math.exp(min(log_v, _LARGE))
        log_base, log_line = _softplus(log_v), _softplus(math.log(a) + log_v)
    else:
        u = math.expm1(w)
        if u == 0:
            return -math.inf
        v = q * u
        log_v = log_q + math.log(abs(u))
        log_base, log_line = math.log1p(v), math.log1p(max(a * v, 0.0))
    if a * log_base > 5:
        return a * log_base + math.log1p(-math.exp(log_line - a * log_base))
    if abs(a * v) < 1e-3:  # the difference below would cancel
        tail = (a - 2) * v / 3 * (1 + (a - 3) * v / 4)
        return math.log(a * (a - 1) / 2) + 2 * log_v + math.log1p(tail)
    return math.log(math.expm1(a * log_base) - a * v)


def _softplus(x: float) -> float:
    """log(1 + e^x)."""
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))


def _log_expm1(x: float) -> float:
    return x if x > _LARGE else math.log(math.expm1(x))


def _logsumexp(terms: list[float]) -> float:
    top = max(terms)
    return top + math.log(math.fsum(math.exp(term - top) for term in terms))
