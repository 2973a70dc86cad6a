"""The moments against closed forms, against themselves by another way, and against opacus."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gentool.privacy.mechanisms import SampledGaussian
from gentool.privacy.moments import _quadrature, log_moment
from gentool.privacy.rdp import ORDERS

NOISES = (0.02, 0.3, 0.7, 1.0, 2.5, 18.0, 1e3)
RATES = (1e-20, 1e-6, 1e-3, 0.05, 0.5, 0.999)


@pytest.mark.parametrize(
    ("rate", "noise", "order", "rho"),
    [
        (0.01, 1, 2, 1.718134221e-4),
        (0.01, 1, 32, 11.24627594),
        (0.01, 1, 1.5, 1.272537433e-4),
        (0.5, 3, 2.5, 0.03671618857),
        (1 / 15, 18.28125, 18, 1.202250747e-4),
        (1 / 1200, 1.1, 3.6, 1.610415e-6),
        (1e-4, 0.8, 1.1, 2.0723235e-8),  # 40-digit arithmetic; opacus gives 2.0723264e-8
    ],
)
def test_reference_values(rate: float, noise: float, order: float, rho: float) -> None:
    assert log_moment(SampledGaussian(noise, rate), order) / (order - 1) == pytest.approx(rho, rel=3e-7)


@pytest.mark.parametrize("noise", NOISES)
def test_without_sampling_it_is_the_gaussian_mechanism(noise: float) -> None:
    """q = 1: rho(a) = a / (2 sigma^2), and q -> 1 goes there without a jump."""
    for order in (1.1, 2.5, 7.0, 64.0):
        rho = order / (2 * noise**2)
        assert log_moment(SampledGaussian(noise), order) / (order - 1) == pytest.approx(rho, rel=1e-14)
        near = log_moment(SampledGaussian(noise, 1 - 1e-12), order) / (order - 1)
        assert near == pytest.approx(rho, rel=1e-9)


@pytest.mark.parametrize("noise", [0.3, 1.0, 18.0, 1e3])
@pytest.mark.parametrize("rate", RATES)
def test_order_two_has_a_closed_form(noise: float, rate: float) -> None:
    """A(2) = 1 + q^2 (exp(1/sigma^2) - 1)."""
    expected = math.log1p(rate**2 * math.expm1(1 / noise**2))
    assert log_moment(SampledGaussian(noise, rate), 2.0) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("rate", RATES)
def test_quadrature_equals_the_binomial_sum(noise: float, rate: float) -> None:
    """At integer orders two unrelated evaluations exist; they agree to 1e-11, down to q = 1e-20."""
    for order in (2, 3, 5, 10):
        log_excess = _quadrature(float(order), rate, noise)
        by_quadrature = max(log_excess, 0) + math.log1p(math.exp(-abs(log_excess)))
        expected = log_moment(SampledGaussian(noise, rate), order)
        assert by_quadrature == pytest.approx(expected, rel=1e-11, abs=1e-300)


@settings(max_examples=25, deadline=None)
@given(st.floats(-0.7, 3), st.floats(-12, -0.01))
def test_divergence_grows_and_the_log_moment_is_convex_in_the_order(
    log_noise: float, log_rate: float
) -> None:
    """Both hold for every pair of distributions; the search for the best order rests on the second."""
    mechanism = SampledGaussian(10**log_noise, 10**log_rate)
    moments = [log_moment(mechanism, order) for order in ORDERS]
    rho = [moment / (order - 1) for moment, order in zip(moments, ORDERS)]
    assert all(one <= two * (1 + 1e-10) for one, two in itertools.pairwise(rho))
    slopes = [(m1 - m0) / (a1 - a0) for m0, m1, a0, a1 in zip(moments, moments[1:], ORDERS, ORDERS[1:])]
    assert all(one <= two * (1 + 1e-8) for one, two in itertools.pairwise(slopes))


@pytest.mark.golden
def test_agrees_with_opacus_on_shared_orders() -> None:
    """To 1e-9, beside the 1e-13 at which opacus cuts its series (a few 1e-11 in rho)."""
    analysis = pytest.importorskip("opacus.accountants.analysis.rdp")
    orders = [order for order in ORDERS if order <= 512]
    for noise, rate in ((1.0, 0.01), (0.6, 0.002), (2.5, 1 / 15), (18.0, 0.2), (1.1, 50 / 60000), (4.0, 1.0)):
        theirs = analysis.compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=orders)
        for order, rho in zip(orders, theirs):
            ours = log_moment(SampledGaussian(noise, rate), order) / (order - 1)
            assert ours == pytest.approx(float(rho), rel=1e-9, abs=5e-11), (noise, rate, order)
