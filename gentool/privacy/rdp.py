"""The built-in accountant: Renyi differential privacy (Mironov 2017, arXiv:1702.07476), in plain `math`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from gentool.privacy.accountants import Spent
from gentool.privacy.mechanisms import MAX_STEPS, Phase, check_delta
from gentool.privacy.moments import log_moment

ORDERS: tuple[float, ...] = (
    *(1 + i / 10 for i in range(1, 100)),
    *(float(order) for order in range(11, 64)),
    *map(float, (64, 72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512, 768, 1024)),
)
"""The 166 Renyi orders searched. Large ones decide small epsilons: grids that end at 63 overstate them."""

Conversion = Literal["improved", "classic"]

_LOOSE = 0.25
"""Where the moments are a smaller share of epsilon than this, most of it is the price of the conversion."""


def renyi_divergence(phases: Sequence[Phase], order: float) -> float:
    """rho(a) of all `phases` at `order` > 1; independent releases add (Mironov 2017, Proposition 1)."""
    return math.fsum(phase.steps * log_moment(phase.mechanism, order) for phase in phases) / (order - 1)


@dataclass(frozen=True)
class RDP:
    """Accounts by Renyi divergences, and converts them to (epsilon, delta) at the best order.

    Both conversions have the form epsilon = (c(a) - log delta) / (a - 1) with c convex in the order a:

    - improved: c(a) = log A(a) + (a - 1) log(a - 1) - a log a (Canonne, Kamath and Steinke 2020,
      arXiv:2004.00010, Proposition 12; Balle et al. 2020, arXiv:1905.09982, Theorem 21);
    - classic: c(a) = log A(a) (Mironov 2017, Proposition 3), to reproduce older papers.

    So epsilon is quasi-convex in the order, and a bisection finds the best of all orders; none is left out.
    """

    conversion: Conversion = "improved"
    name: ClassVar[str] = "rdp"
    tolerance: ClassVar[float] = 1e-6
    max_steps: ClassVar[int] = MAX_STEPS
    instant: ClassVar[bool] = True

    @property
    def title(self) -> str:
        return f"RDP, {self.conversion} conversion"

    def epsilon(self, phases: Sequence[Phase], delta: float) -> Spent:
        """What `phases` cost at `delta`, in (0, 1).

        Raises:
            UserError: delta out of range.
        """
        check_delta(delta)
        if not phases or self._total_variation(phases) <= delta:
            return Spent(0.0, delta)
        order = _best(lambda a: (self._convex(phases, a) - math.log(delta)) / (a - 1))
        epsilon = max(0.0, (self._convex(phases, order) - math.log(delta)) / (order - 1))
        return Spent(epsilon, delta, order, _notes(epsilon, order, renyi_divergence(phases, order)))

    def delta(self, phases: Sequence[Phase], epsilon: float) -> float:
        """The smallest delta in [0, 1] known at `epsilon` >= 0; the inverse of `epsilon`."""
        if not phases:
            return 0.0
        order = _best(lambda a: self._convex(phases, a) - (a - 1) * epsilon)
        log_delta = self._convex(phases, order) - (order - 1) * epsilon
        return min(1.0, math.exp(min(log_delta, 0.0)), self._total_variation(phases))

    def _convex(self, phases: Sequence[Phase], order: float) -> float:
        moment = (order - 1) * renyi_divergence(phases, order)
        if self.conversion == "classic":
            return moment
        return moment + (order - 1) * math.log(order - 1) - order * math.log(order)

    def _total_variation(self, phases: Sequence[Phase]) -> float:
        """A delta that holds at epsilon 0: sqrt(1 - exp(-rho)) (Bretagnolle-Huber), where rho is least."""
        if self.conversion == "classic":
            return 1.0
        return math.sqrt(-math.expm1(-renyi_divergence(phases, ORDERS[0])))


def _best(cost: Callable[[float], float]) -> float:
    """The order with the least `cost`, a quasi-convex function of the order."""
    low, high = 0, len(ORDERS) - 1
    while low < high:
        middle = (low + high) // 2
        if cost(ORDERS[middle]) <= cost(ORDERS[middle + 1]):
            high = middle
        else:
            low = middle + 1
    return ORDERS[low]


def _notes(epsilon: float, order: float, rho: float) -> tuple[str, ...]:
    notes = []
    if order in (ORDERS[0], ORDERS[-1]):
        notes.append(
            f"the best Renyi order, {order:g}, is at the edge of those searched: "
            "epsilon holds but is not tight"
        )
    if rho < _LOOSE * epsilon:
        notes.append(
            "RDP is loose for so few steps or so small a sample rate, up to several times: "
            "the accountant pld gives a tighter epsilon"
        )
    return tuple(notes)
