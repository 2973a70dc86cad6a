"""dp-accounting: its figures on 300 random settings, and its PLD accountant where it is installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from privacy_exact import gaussian_epsilon, one_step_epsilon
from privacy_goldens import GOLDENS, PLD_GOLDENS, phases_of

from gentool.errors import UserError
from gentool.privacy import rdp
from gentool.privacy.calibrate import find_noise_multiplier
from gentool.privacy.mechanisms import Phase, SampledGaussian
from gentool.privacy.rdp import ORDERS, RDP

SETTINGS: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("dp_accounting_goldens.json").read_text()
)["settings"]
QUICK = ("G1", "S1", "S2", "S13", "D1", "K1", "C1", "C2")


def _phases(setting: dict[str, Any]) -> list[Phase]:
    return [Phase(SampledGaussian(noise, rate), steps) for noise, rate, steps in setting["phases"]]


def test_equal_to_dp_accounting_on_integer_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """There it is exact, and both agree to 1e-9."""
    monkeypatch.setattr(rdp, "ORDERS", tuple(order for order in ORDERS if order.is_integer()))
    for setting in SETTINGS:
        ours = RDP().epsilon(_phases(setting), setting["delta"]).epsilon
        assert ours == pytest.approx(setting["rdp_integer"], rel=1e-9), setting


def test_never_above_dp_accounting_and_nearly_always_equal() -> None:
    """It bounds fractional orders from above, or drops them: ours is never larger, seldom 1e-3 smaller."""
    ratios = [
        setting["rdp"] / RDP().epsilon(_phases(setting), setting["delta"]).epsilon for setting in SETTINGS
    ]
    assert min(ratios) >= 1 - 1e-9
    assert max(ratios) <= 1.025
    assert sum(ratio < 1.001 for ratio in ratios) >= 0.94 * len(ratios)


def test_never_below_the_privacy_loss_distribution() -> None:
    """PLD's epsilon is exact to its grid: RDP must lie above it."""
    compared = [setting for setting in SETTINGS if "pld" in setting]
    assert len(compared) == 60
    for setting in compared:
        assert RDP().epsilon(_phases(setting), setting["delta"]).epsilon >= setting["pld"] - 1e-3, setting


@pytest.mark.golden
def test_goldens_are_those_of_the_installed_library() -> None:
    library = pytest.importorskip("dp_accounting")
    for setting in SETTINGS[:40]:
        accountant = library.rdp.RdpAccountant([order for order in ORDERS if order.is_integer()])
        for noise, rate, steps in setting["phases"]:
            event = library.GaussianDpEvent(noise)
            if rate < 1:
                event = library.PoissonSampledDpEvent(rate, event)
            accountant.compose(library.SelfComposedDpEvent(event, steps))
        assert accountant.get_epsilon(setting["delta"]) == pytest.approx(setting["rdp_integer"], rel=1e-9)


@pytest.mark.golden
@pytest.mark.parametrize("name", QUICK)
def test_pld_golden_table(name: str) -> None:
    pytest.importorskip("dp_accounting")
    from gentool.privacy.pld import PLD

    _, noises, rates, steps, delta, *_ = next(row for row in GOLDENS if row[0] == name)
    spent = PLD().epsilon(phases_of(noises, rates, steps), delta)
    assert spent.epsilon == pytest.approx(PLD_GOLDENS[name], abs=2e-3)


@pytest.mark.golden
def test_pld_is_just_above_the_exact_curve() -> None:
    pytest.importorskip("dp_accounting")
    from gentool.privacy.pld import PLD

    exact = gaussian_epsilon(2.0, 1e-6)
    assert exact <= PLD().epsilon([Phase(SampledGaussian(2.0), 1)], 1e-6).epsilon <= exact + 1e-3
    exact = one_step_epsilon(0.8, 0.05, 1e-5)
    assert exact <= PLD().epsilon([Phase(SampledGaussian(0.8, 0.05), 1)], 1e-5).epsilon <= exact + 1e-3


@pytest.mark.golden
def test_pld_calibrates_without_exceeding_the_target() -> None:
    pytest.importorskip("dp_accounting")
    from gentool.privacy.pld import PLD

    noise = find_noise_multiplier(1.0, 1e-5, 1.0, 1, accountant=PLD())
    assert noise == pytest.approx(3.7307, abs=1e-3)
    assert PLD().epsilon([Phase(SampledGaussian(noise), 1)], 1e-5).epsilon <= 1.0


@pytest.mark.golden
def test_pld_never_gives_more_than_rdp_and_refuses_what_would_not_end() -> None:
    pytest.importorskip("dp_accounting")
    from gentool.privacy.pld import PLD

    tiny = [Phase(SampledGaussian(5.0, 0.5), 10)]
    assert PLD().epsilon(tiny, 1e-300).epsilon == RDP().epsilon(tiny, 1e-300).epsilon
    assert PLD().epsilon(tiny, 1e-300).notes
    hopeless = [Phase(SampledGaussian(0.01), 10**7)]  # the library overflows
    assert PLD().epsilon(hopeless, 1e-5).epsilon == RDP().epsilon(hopeless, 1e-5).epsilon
    with pytest.raises(UserError, match="at most 1e\\+07 steps"):
        PLD().epsilon([Phase(SampledGaussian(10.0, 1e-5), 10**8)], 1e-5)


def test_pld_without_the_library_says_what_to_install(hide: Callable[[str], None]) -> None:
    from gentool.privacy.pld import PLD

    hide("dp_accounting")
    with pytest.raises(UserError, match=r"pip install 'gentool\[pld\]'"):
        PLD()
