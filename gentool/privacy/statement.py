"""What an epsilon means, in words: whose privacy, against which neighbours, assuming and leaving out what."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gentool.privacy.mechanisms import Phase

UNIT = (
    "one record: one training example with its label. "
    "Someone with g records has a weaker guarantee, of about g times epsilon."
)
ADJACENCY = (
    "add or remove one record. "
    "For replacing one, the sensitivity, and so the noise needed, is twice as large."
)
NOISE = (
    "Gaussian, its standard deviation the noise multiplier times the L2 sensitivity (in DP-SGD the clipping norm), "
    "drawn afresh and secretly at every step; what is released never depends on how many records joined "
    "but through the noised sum, and a step whose batch is empty is taken too."
)
_POISSON = (
    "each record joins each step with a probability of the sample rate, independently of all others "
    "(Poisson). Shuffled epochs and batches of fixed size are not covered: their true epsilon can be far "
    "higher."
)
_ALL = "none: every step uses all records."
NOT_COVERED = (
    "hyper-parameter tuning and other runs on the same data, unless they are part of the account",
    "statistics of the data that a recipe was given: mean, scale, label counts, the number of records",
    "choices made by looking at private data: metrics, early stopping, the best checkpoint, picked samples",
    "attacks on the random generator or on floating-point rounding",
)


def sampling(phases: Sequence[Phase]) -> str:
    """What is assumed of how the batches of `phases` are drawn."""
    return _ALL if all(phase.mechanism.sample_rate == 1 for phase in phases) else _POISSON


def warnings(phases: Sequence[Phase], delta: float) -> tuple[str, ...]:
    """What is doubtful about the question itself."""
    rate = min((phase.mechanism.sample_rate for phase in phases), default=1.0)
    if delta < rate:
        return ()
    return (
        f"delta {delta:g} is not below the sample rate {rate:g}, so it is 1/records or more, which would "
        "allow a record to be published outright; take a delta well below 1/records",
    )


def rounded_up(value: float, places: int) -> str:
    """A bound as people read it, never below what it is."""
    return f"{math.ceil(value * 10**places) / 10**places:.{places}f}"
