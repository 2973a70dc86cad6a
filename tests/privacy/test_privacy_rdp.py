"""The RDP accountant: golden figures, exact privacy curves, and the laws that every accountant obeys."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from privacy_exact import gaussian_epsilon, one_step_epsilon
from privacy_goldens import GOLDENS, PLD_GOLDENS, phases_of

from gentool.errors import UserError
from gentool.privacy import rdp
from gentool.privacy.mechanisms import Phase, SampledGaussian, merge
from gentool.privacy.rdp import ORDERS, RDP, renyi_divergence

PHASES = st.lists(
    st.builds(
        lambda noise, rate, steps: Phase(SampledGaussian(10**noise, 10**rate), round(10**steps)),
        st.floats(-0.4, 2),
        st.floats(-6, 0),
        st.floats(0, 4),
    ),
    min_size=1,
    max_size=3,
)
DELTAS = st.floats(-12, -1).map(lambda exponent: 10**exponent)
BOTH = (RDP(), RDP("classic"))


@pytest.mark.parametrize("row", GOLDENS, ids=[row[0] for row in GOLDENS])
def test_golden_table(row: tuple) -> None:
    """Published settings and their epsilons, to the last of the four decimals given."""
    _, noises, rates, steps, delta, epsilon, order, classic = row
    phases = phases_of(noises, rates, steps)
    spent = RDP().epsilon(phases, delta)
    assert spent.epsilon == pytest.approx(epsilon, abs=6e-5)
    assert spent.order == pytest.approx(order)
    assert RDP("classic").epsilon(phases, delta).epsilon == pytest.approx(classic, abs=6e-5)


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0, 5.0, 20.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
def test_gaussian_lies_just_above_the_exact_curve(noise: float, delta: float) -> None:
    """Never below it, at most 25 % above: no factor of 2 in sigma could pass."""
    exact = gaussian_epsilon(noise, delta)
    assert exact <= RDP().epsilon([Phase(SampledGaussian(noise), 1)], delta).epsilon <= 1.25 * exact


def test_the_exact_curve_is_right() -> None:
    for noise, epsilon in ((1, 4.377178), (5, 0.725522), (0.5, 9.997256)):
        assert gaussian_epsilon(noise, 1e-5) == pytest.approx(epsilon, abs=1e-6)
        assert one_step_epsilon(noise, 1.0, 1e-5) == pytest.approx(epsilon, abs=1e-6)


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("rate", [1e-4, 0.01, 0.3])
def test_never_below_the_exact_privacy_of_one_sampled_step(noise: float, rate: float) -> None:
    for delta in (1e-3, 1e-6, 1e-9):
        exact = one_step_epsilon(noise, rate, delta)
        assert RDP().epsilon([Phase(SampledGaussian(noise, rate), 1)], delta).epsilon >= exact


def test_gaussians_compose_like_one_with_less_noise() -> None:
    """T releases at sigma sqrt(T) are one at sigma."""
    one = RDP().epsilon([Phase(SampledGaussian(1.3), 1)], 1e-6)
    many = RDP().epsilon([Phase(SampledGaussian(1.3 * math.sqrt(400)), 400)], 1e-6)
    assert many.epsilon == pytest.approx(one.epsilon, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(PHASES, DELTAS)
def test_bisection_finds_the_best_of_all_orders(phases: list[Phase], delta: float) -> None:
    """No order is skipped: the minimum over a full scan is no smaller, under either conversion."""
    for order in ORDERS:
        rho, slack = renyi_divergence(phases, order), math.log(1 / delta) / (order - 1)
        assert RDP("classic").epsilon(phases, delta).epsilon <= (rho + slack) * (1 + 1e-12)
        improved = rho + math.log((order - 1) / order) - (math.log(delta) + math.log(order)) / (order - 1)
        assert RDP().epsilon(phases, delta).epsilon <= max(improved, 0) * (1 + 1e-12) + 1e-13


@settings(max_examples=40, deadline=None)
@given(PHASES, DELTAS)
def test_the_order_found_gives_the_epsilon_told(phases: list[Phase], delta: float) -> None:
    spent = RDP("classic").epsilon(phases, delta)
    assert spent.order is not None
    at_order = renyi_divergence(phases, spent.order) + math.log(1 / delta) / (spent.order - 1)
    assert spent.epsilon == pytest.approx(at_order, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(PHASES, DELTAS, st.floats(1.01, 3))
def test_monotone(phases: list[Phase], delta: float, more: float) -> None:
    """Epsilon falls with noise and delta, and grows with the rate, the steps and every further phase."""
    first, *rest = phases
    noise, rate = first.mechanism.noise_multiplier, first.mechanism.sample_rate
    for accountant in BOTH:
        epsilon = accountant.epsilon(phases, delta).epsilon
        almost = epsilon * (1 + 1e-9) + 1e-12
        quieter = Phase(SampledGaussian(noise * more, rate), first.steps)
        rarer = Phase(SampledGaussian(noise, rate / more), first.steps)
        longer = Phase(first.mechanism, math.ceil(first.steps * more))
        assert accountant.epsilon([quieter, *rest], delta).epsilon <= almost
        assert accountant.epsilon([rarer, *rest], delta).epsilon <= almost
        assert accountant.epsilon(rest, delta).epsilon <= almost
        assert accountant.epsilon(phases, min(delta * more, 0.9)).epsilon <= almost
        assert accountant.epsilon([longer, *rest], delta).epsilon * (1 + 1e-9) + 1e-12 >= epsilon
    assert RDP().epsilon(phases, delta).epsilon <= RDP("classic").epsilon(phases, delta).epsilon


@settings(max_examples=25, deadline=None)
@given(PHASES, DELTAS)
def test_composition(phases: list[Phase], delta: float) -> None:
    """Divergences add, the order of phases is irrelevant, and an interruption changes nothing."""
    for order in (1.1, 8.0, 64.0):
        parts = sum(renyi_divergence([phase], order) for phase in phases)
        assert renyi_divergence(phases, order) == pytest.approx(parts, rel=1e-12)
    epsilon = RDP().epsilon(phases, delta).epsilon
    split = [Phase(p.mechanism, n) for p in phases for n in (p.steps // 3, p.steps - p.steps // 3) if n]
    for same in (phases[::-1], split, merge(split)):
        assert RDP().epsilon(same, delta).epsilon == pytest.approx(epsilon, rel=1e-11, abs=1e-13)


def test_merge_joins_neighbours_only() -> None:
    a, b = SampledGaussian(1.0, 0.1), SampledGaussian(2.0, 0.1)
    merged = merge([Phase(a, 2), Phase(a, 3), Phase(b, 1), Phase(a, 4)])
    assert merged == (Phase(a, 5), Phase(b, 1), Phase(a, 4))


@settings(max_examples=40, deadline=None)
@given(PHASES, DELTAS)
def test_delta_inverts_epsilon(phases: list[Phase], delta: float) -> None:
    for accountant in BOTH:
        epsilon = accountant.epsilon(phases, delta).epsilon
        if epsilon > 1e-9:
            assert accountant.delta(phases, epsilon) == pytest.approx(delta, rel=1e-6)
        else:
            assert accountant.delta(phases, epsilon) <= delta * (1 + 1e-9)


def test_delta_stays_above_the_exact_curve() -> None:
    for epsilon in (0.5, 2.0, 6.0):
        bound = RDP().delta([Phase(SampledGaussian(1.0), 1)], epsilon)
        assert gaussian_epsilon(1.0, bound) <= epsilon
    assert RDP().delta([], 1.0) == 0
    assert RDP().delta([Phase(SampledGaussian(0.1), 5)], 0.0) == 1


def test_nothing_released_costs_nothing() -> None:
    assert RDP().epsilon([], 1e-5).epsilon == RDP("classic").epsilon([], 1e-5).epsilon == 0


def test_epsilon_zero_where_the_total_variation_is_below_delta() -> None:
    """N(0, s^2) and N(1, s^2) are 1 / (s sqrt(2 pi)) apart in total variation: under delta, 0 is true."""
    assert RDP().epsilon([Phase(SampledGaussian(1e5), 1)], 1e-4).epsilon == 0
    assert RDP().epsilon([Phase(SampledGaussian(1e5), 1)], 1e-6).epsilon > 0


def test_large_orders_matter_for_small_epsilons() -> None:
    """sigma 10, q 0.01, 1000 steps: a grid that ends at 63 gives 0.1347, that of dp-accounting 0.1097."""
    spent = RDP().epsilon([Phase(SampledGaussian(10, 0.01), 1000)], 1e-5)
    assert 0.1091 < spent.epsilon < 0.1097
    assert spent.order is not None
    assert spent.order > 63
    assert not spent.notes


def test_optimum_at_the_edge_of_the_orders_is_told() -> None:
    hardly_any_noise = RDP().epsilon([Phase(SampledGaussian(0.02), 1)], 1e-5)
    hardly_any_step = RDP().epsilon([Phase(SampledGaussian(1e3, 0.5), 1)], 1e-6)
    assert (hardly_any_noise.order, hardly_any_step.order) == (ORDERS[0], ORDERS[-1])
    for spent in (hardly_any_noise, hardly_any_step):
        assert "edge" in spent.notes[0]


def test_looseness_is_told_where_pld_is_much_tighter() -> None:
    """The golden rows that carry the note are those whose PLD epsilon is under 80 % of RDP's."""
    for name, noises, rates, steps, delta, epsilon, *_ in GOLDENS:
        notes = RDP().epsilon(phases_of(noises, rates, steps), delta).notes
        assert any("pld" in note for note in notes) == (PLD_GOLDENS[name] < 0.8 * epsilon), name


def test_orders_are_those_of_the_documentation() -> None:
    assert len(ORDERS) == len(set(ORDERS)) == 166
    assert list(ORDERS) == sorted(ORDERS)
    assert rdp.ORDERS[0] == 1.1


@pytest.mark.parametrize("delta", [math.nan, math.inf, -math.inf, -1e-5, 0.0, 1.0, 2.0])
def test_delta_out_of_range_is_refused(delta: float) -> None:
    for accountant in BOTH:
        with pytest.raises(UserError, match="delta"):
            accountant.epsilon([Phase(SampledGaussian(1.0, 0.1), 10)], delta)


@pytest.mark.parametrize("noise", [math.nan, math.inf, -1.0, 0.0, 1e-3, 1e7])
def test_noise_out_of_range_is_refused(noise: float) -> None:
    with pytest.raises(UserError, match="noise multiplier"):
        SampledGaussian(noise, 0.1)


@pytest.mark.parametrize("rate", [math.nan, math.inf, -0.1, 0.0, 1.0000001, 60000.0])
def test_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(UserError, match="sample rate"):
        SampledGaussian(1.0, rate)


@pytest.mark.parametrize("steps", [0, -5, 10**13, 10**400, 2.5, math.nan, True])
def test_steps_out_of_range_are_refused(steps: int) -> None:
    with pytest.raises(UserError, match="steps"):
        Phase(SampledGaussian(1.0, 0.1), steps)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(math.log10(0.0101), 6),
    st.floats(-29.9, 0),
    st.floats(0, 12),
    st.floats(1e-300, 1, exclude_max=True),
)
def test_every_accepted_setting_has_a_finite_epsilon(
    log_noise: float, log_rate: float, log_steps: float, delta: float
) -> None:
    phases = [Phase(SampledGaussian(10**log_noise * 0.999, 10**log_rate), round(10**log_steps))]
    improved, classic = (accountant.epsilon(phases, delta).epsilon for accountant in BOTH)
    assert 0 <= improved <= classic < math.inf
