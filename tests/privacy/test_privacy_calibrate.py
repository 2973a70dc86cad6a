"""Noise and steps for a budget: never over it, and no better answer next to theirs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gentool.errors import BudgetError, UserError
from gentool.privacy.calibrate import find_noise_multiplier, find_steps
from gentool.privacy.mechanisms import MAX_STEPS, Phase, SampledGaussian
from gentool.privacy.rdp import RDP

SPENT = (Phase(SampledGaussian(10.0), 1), Phase(SampledGaussian(2.0, 0.01), 300))


@pytest.mark.parametrize(
    ("rate", "steps", "delta", "epsilon", "noise"),
    [
        (1 / 15, 4500, 1e-5, 10, 2.48703),
        (1 / 15, 4500, 1e-5, 1, 18.13278),
        (1 / 15, 4500, 1e-5, 0.2, 80.18469),
        (1 / 80, 24000, 1e-6, 10, 1.30289),
        (1 / 80, 24000, 1e-6, 1, 8.81648),
        (1 / 25, 12500, 1e-5, 10, 2.48029),
        (1 / 626, 62600, 7e-7, 10, 0.60247),
        (50 / 60000, 1000000, 1e-5, 10, 0.74525),
        (128 / 1797, 1000, 1e-4, 8, 1.50762),
        (512 / 60000, 2000, 1e-5, 3, 0.90902),
        (1, 1, 1e-5, 1, 4.04539),
    ],
)
def test_golden_noise_multipliers(
    rate: float, steps: int, delta: float, epsilon: float, noise: float
) -> None:
    assert find_noise_multiplier(epsilon, delta, rate, steps) == pytest.approx(noise, rel=1e-6, abs=6e-6)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 15), st.floats(-9, -3), st.floats(-4, 0), st.floats(0, 4), st.booleans(), st.booleans())
def test_noise_is_enough_and_hardly_more(
    epsilon: float, log_delta: float, log_rate: float, log_steps: float, spent: bool, classic: bool
) -> None:
    """Epsilon at the answer is within the target; with 2e-6 less noise it is not."""
    before = SPENT if spent else ()
    delta, rate, steps = 10**log_delta, 10**log_rate, round(10**log_steps)
    accountant = RDP("classic" if classic else "improved")
    try:
        noise = find_noise_multiplier(epsilon, delta, rate, steps, before, accountant)
    except BudgetError:
        assert accountant.epsilon(before, delta).epsilon > epsilon
        return
    except (
        UserError
    ):  # no noise multiplier in range is the answer: too much is met by 0.01, or 1e6 is too little
        ends = [
            accountant.epsilon([*before, Phase(SampledGaussian(end, rate), steps)], delta).epsilon
            for end in (0.02, 1e6)
        ]
        assert ends[0] <= epsilon or ends[1] > epsilon
        return

    def cost(multiplier: float) -> float:
        return accountant.epsilon([*before, Phase(SampledGaussian(multiplier, rate), steps)], delta).epsilon

    assert cost(noise) <= epsilon
    assert cost(noise * (1 - 2e-6)) > epsilon


@settings(max_examples=30, deadline=None)
@given(st.floats(0.5, 20), st.floats(-3, -0.3), st.floats(1.0, 10.0))
def test_round_trip(noise: float, log_rate: float, steps_scale: float) -> None:
    """The noise for the epsilon of sigma is sigma; the steps for the epsilon of T are T."""
    mechanism = SampledGaussian(noise, 10**log_rate)
    steps = round(100 * steps_scale)
    epsilon = RDP().epsilon([Phase(mechanism, steps)], 1e-5).epsilon
    found = find_noise_multiplier(epsilon, 1e-5, mechanism.sample_rate, steps)
    assert found == pytest.approx(noise, rel=1e-5)
    assert find_steps(epsilon, 1e-5, mechanism) == steps


@settings(max_examples=30, deadline=None)
@given(st.floats(0.6, 10), st.floats(0.6, 20), st.floats(-4, 0), st.booleans())
def test_steps_stop_before_the_one_that_exceeds(
    epsilon: float, noise: float, log_rate: float, spent: bool
) -> None:
    before = SPENT if spent else ()
    mechanism = SampledGaussian(noise, 10**log_rate)
    steps = find_steps(epsilon, 1e-5, mechanism, before)

    def cost(count: int) -> float:
        return RDP().epsilon([*before, *([Phase(mechanism, count)] if count else [])], 1e-5).epsilon

    assert cost(steps) <= epsilon < cost(steps + 1)


def test_steps_beyond_all_bounds_end_at_the_most_that_is_accounted_for() -> None:
    mechanism = SampledGaussian(1e6, 1e-6)
    assert find_steps(5.0, 1e-5, mechanism) == MAX_STEPS
    assert find_steps(5.0, 1e-5, mechanism, [Phase(SampledGaussian(1e6, 1e-6), 7)]) == MAX_STEPS - 7


def test_an_exhausted_budget_is_told_as_such() -> None:
    spent = [Phase(SampledGaussian(1.0), 1)]  # epsilon 4.7285
    with pytest.raises(BudgetError, match=r"4\.72.*above the target of 3"):
        find_steps(3.0, 1e-5, SampledGaussian(1.0, 0.1), spent)
    with pytest.raises(BudgetError):
        find_noise_multiplier(3.0, 1e-5, 0.1, 10, spent)


def test_targets_that_no_noise_multiplier_answers_are_refused() -> None:
    with pytest.raises(UserError, match="up to 1e\\+06"):
        find_noise_multiplier(1e-9, 1e-12, 1.0, 10**6)
    with pytest.raises(UserError, match="smaller epsilon"):
        find_noise_multiplier(1e6, 1e-5, 1.0, 1)


@pytest.mark.parametrize("epsilon", [math.nan, math.inf, 0.0, -1.0])
def test_targets_out_of_range_are_refused(epsilon: float) -> None:
    with pytest.raises(UserError, match="target epsilon"):
        find_steps(epsilon, 1e-5, SampledGaussian(1.0, 0.1))
    with pytest.raises(UserError, match="target epsilon"):
        find_noise_multiplier(epsilon, 1e-5, 0.1, 10)
