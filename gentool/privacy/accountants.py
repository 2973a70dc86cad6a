"""What every accountant answers, and the accountants by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from gentool.privacy.mechanisms import Phase
from gentool.registry import Registry


@dataclass(frozen=True)
class Spent:
    """What phases cost: they are (epsilon, delta)-differentially private for adding or removing one record.

    Attributes:
        epsilon: an upper bound, >= 0.
        delta: the probability that it was asked for.
        order: the Renyi order that gave it; None where the accountant has none, or nothing was released.
        notes: what a reader should know of the figure (loose, at the edge of the orders), one sentence each.
    """

    epsilon: float
    delta: float
    order: float | None = None
    notes: tuple[str, ...] = ()


class Accountant(Protocol):
    """From phases to (epsilon, delta). All give upper bounds, so the smaller of two may be used."""

    name: ClassVar[str]
    tolerance: ClassVar[float]
    """Relative width to which calibration is worth its time."""
    max_steps: ClassVar[int]
    """Most steps, of all phases together, that it takes."""
    instant: ClassVar[bool]
    """Whether an answer takes less time than a training step; else it takes up to seconds."""

    @property
    def title(self) -> str:
        """How a report or the legend of a plot calls it."""
        ...

    @property
    def conversion(self) -> str | None:
        """How it turns what it composes into epsilon, where it has a choice."""
        ...

    def epsilon(self, phases: Sequence[Phase], delta: float) -> Spent:
        """What all `phases` together cost at `delta`; their order does not matter."""
        ...


ACCOUNTANTS: Registry[type[Accountant]] = Registry(
    "accountant", {"rdp": "gentool.privacy.rdp:RDP", "pld": "gentool.privacy.pld:PLD"}
)
