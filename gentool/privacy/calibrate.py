"""The inverse questions: which noise, and how many steps, a target epsilon allows; it is never exceeded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gentool.errors import BudgetError, UserError
from gentool.privacy.accountants import Accountant
from gentool.privacy.mechanisms import (
    MAX_NOISE_MULTIPLIER,
    MIN_NOISE_MULTIPLIER,
    Phase,
    SampledGaussian,
    check_epsilon,
    merge,
)
from gentool.privacy.rdp import RDP


def find_noise_multiplier(
    target_epsilon: float,
    delta: float,
    sample_rate: float,
    steps: int,
    spent: Sequence[Phase] = (),
    accountant: Accountant | None = None,
) -> float:
    """The smallest noise multiplier with which `steps` steps after `spent` cost at most `target_epsilon`.

    The root is bracketed by doubling and bisected to the accountant's tolerance (1e-6 relative for RDP, the
    default); the upper end is returned, for which the accountant has confirmed epsilon <= target.

    Raises:
        UserError: an argument out of range, or no noise multiplier from 0.01 to 1e6 is the answer.
        BudgetError: `spent` alone exceeds the target.
    """
    judge = accountant or RDP()
    within = _budget(target_epsilon, delta, spent, judge)

    def enough(noise: float) -> bool:
        return within(Phase(SampledGaussian(noise, sample_rate), steps))

    low, high = 0.5, 1.0
    while not enough(high):
        low, high = high, 2 * high
        if high > MAX_NOISE_MULTIPLIER:
            raise UserError(
                f"no noise multiplier up to {MAX_NOISE_MULTIPLIER:g} keeps epsilon at or below "
                f"{target_epsilon:g} at delta {delta:g}: allow a larger epsilon or delta, or fewer steps"
            )
    while enough(low):
        low, high = low / 2, low
        if low < MIN_NOISE_MULTIPLIER:
            raise UserError(
                f"target epsilon {target_epsilon:g} is already met with a noise multiplier of {high:g}, "
                "which is hardly any noise: ask for a smaller epsilon"
            )
    while high - low > judge.tolerance * high:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def find_steps(
    target_epsilon: float,
    delta: float,
    mechanism: SampledGaussian,
    spent: Sequence[Phase] = (),
    accountant: Accountant | None = None,
    enough: int | None = None,
) -> int:
    """The most steps of `mechanism` that, after `spent`, cost at most `target_epsilon`; may be 0.

    So step n + 1 is known to exceed the target before it is taken. Where even the most steps that the
    accountant takes are within the target, that number is returned.

    Args:
        enough: all that are wanted (at least 1): tried first, and returned where they are within the target.

    Raises:
        UserError: an argument out of range.
        BudgetError: `spent` alone exceeds the target.
    """
    judge = accountant or RDP()
    within = _budget(target_epsilon, delta, spent, judge)
    most = judge.max_steps - sum(phase.steps for phase in spent)
    if enough is not None and enough <= most and within(Phase(mechanism, enough)):
        return enough
    low, high = 0, 1  # low steps are within the target; high are not, or are out of reach
    while high <= most and within(Phase(mechanism, high)):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(Phase(mechanism, middle)) else (low, middle)
    return low


def _budget(
    target_epsilon: float, delta: float, spent: Sequence[Phase], judge: Accountant
) -> Callable[[Phase], bool]:
    """Whether one more phase stays within the target."""
    check_epsilon(target_epsilon)
    already = judge.epsilon(spent, delta).epsilon
    if already > target_epsilon:
        raise BudgetError(
            f"the phases already taken cost epsilon {already:.4f} at delta {delta:g}, "
            f"above the target of {target_epsilon:g}: no further step is allowed"
        )

    def within(phase: Phase) -> bool:
        # Merged, so that k steps taken and n to come cost to the last bit what k + n in one stretch do.
        return judge.epsilon(merge([*spent, phase]), delta).epsilon <= target_epsilon

    return within
