"""What was released: frozen descriptions that accountants read. They say nothing of what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gentool.errors import UserError

MIN_NOISE_MULTIPLIER = 0.01
"""Below it epsilon is in the thousands: there is no privacy left to account for."""
MAX_NOISE_MULTIPLIER = 1e6
MIN_SAMPLE_RATE = 1e-30
MAX_STEPS = 10**12


@dataclass(frozen=True)
class SampledGaussian:
    """One noisy sum over a Poisson sample: each record joins with probability `sample_rate`, independently.

    Holds for any function of the sample whose L2 norm moves by at most the sensitivity when one record is
    added or removed (Mironov, Talwar and Zhang 2019), so for clipped gradient sums as for bounded statistics.

    Attributes:
        noise_multiplier: standard deviation of the Gaussian noise / L2 sensitivity, 0.01 to 1e6. For DP-SGD
            the sensitivity is the clipping norm; of a quantity that swings across a ball, twice the radius.
        sample_rate: the probability q in (0, 1]; 1 is the plain Gaussian mechanism on all records.

    Raises:
        UserError: a value that is not a number or out of its range.
    """

    noise_multiplier: float
    sample_rate: float = 1.0

    def __post_init__(self) -> None:
        if not MIN_NOISE_MULTIPLIER <= self.noise_multiplier <= MAX_NOISE_MULTIPLIER:
            raise UserError(
                f"noise multiplier: expected a number from {MIN_NOISE_MULTIPLIER:g} to "
                f"{MAX_NOISE_MULTIPLIER:g} (standard deviation of the noise / sensitivity), "
                f"got {self.noise_multiplier!r}"
            )
        if not MIN_SAMPLE_RATE <= self.sample_rate <= 1:
            raise UserError(
                "sample rate: expected a probability above 0 and at most 1 (expected batch / records), "
                f"got {self.sample_rate!r}"
            )


@dataclass(frozen=True)
class Phase:
    """The same mechanism on the same data, `steps` times (1 to 10^12), each with fresh sampling and noise.

    Raises:
        UserError: `steps` is no whole number or out of range.
    """

    mechanism: SampledGaussian
    steps: int

    def __post_init__(self) -> None:
        if (
            isinstance(self.steps, bool)
            or not isinstance(self.steps, int)
            or not 1 <= self.steps <= MAX_STEPS
        ):
            raise UserError(f"steps: expected a whole number from 1 to {MAX_STEPS:.0e}, got {self.steps!r}")


@dataclass(frozen=True)
class Release:
    """What one step, or one statistic, publishes of the records, as a ledger tells it.

    Attributes:
        name: what it is: `dp-sgd`, `label-histogram`, ...
        noise_multiplier: standard deviation of the noise / `sensitivity`; None: no noise, so no privacy.
        sample_rate: the chance of each record to take part, independently; 1 is all of them.
        sensitivity: the L2 norm by which adding or removing one record can move it; the noise has a standard
            deviation of `noise_multiplier * sensitivity`. The clipping norm of a sum of clipped gradients;
            twice the radius of a quantity that is anywhere in a ball.

    Raises:
        UserError: a value out of range.
    """

    name: str
    noise_multiplier: float | None
    sample_rate: float = 1.0
    sensitivity: float = 1.0

    def __post_init__(self) -> None:
        if self.noise_multiplier is not None:
            SampledGaussian(self.noise_multiplier, self.sample_rate)  # which checks both
        if not 0 < self.sensitivity < math.inf:
            raise UserError(f"sensitivity: expected a finite number above 0, got {self.sensitivity!r}")

    def phases(self, steps: int) -> tuple[Phase, ...]:
        """`steps` of it as accountants take them; none of what has no noise, or of no steps."""
        if self.noise_multiplier is None or steps == 0:
            return ()
        return (Phase(SampledGaussian(self.noise_multiplier, self.sample_rate), steps),)


def merge(phases: Iterable[Phase]) -> tuple[Phase, ...]:
    """The same releases with neighbouring phases of one mechanism told as one."""
    merged: list[Phase] = []
    for phase in phases:
        if merged and merged[-1].mechanism == phase.mechanism:
            merged[-1] = replace(phase, steps=merged[-1].steps + phase.steps)
        else:
            merged.append(phase)
    return tuple(merged)


def check_delta(delta: float) -> float:
    """`delta` itself, a probability strictly between 0 and 1; anything else is a `UserError`."""
    if not 0 < delta < 1:
        raise UserError(
            f"delta: expected a probability above 0 and below 1 (well below 1/records), got {delta!r}"
        )
    return delta


def check_epsilon(epsilon: float) -> float:
    """`epsilon` itself, finite and above 0; anything else is a `UserError`."""
    if not 0 < epsilon < math.inf:
        raise UserError(f"target epsilon: expected a finite number above 0, got {epsilon!r}")
    return epsilon
