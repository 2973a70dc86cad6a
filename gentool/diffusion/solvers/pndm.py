"""Constant Adams-Bashforth weights on the DDIM transfer: PNDM and its improved start-up.

Sources: PNDM (2202.09778), iPNDM as in DEIS (2204.13902). The
weights are those of equal steps; where steps in sigma differ, orders above 2 fall to 2.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from gentool.diffusion.grids import Grid
from gentool.diffusion.process import Process
from gentool.diffusion.solvers.core import (
    STRICT,
    LinearStep,
    Plan,
    Row,
    Solver,
    Stage,
    linear_plan,
    step_orders,
)

ADAMS: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
"""Adams-Bashforth weights for equal steps, newest first."""


def adams_step(s: float, t: float, order: int) -> LinearStep:
    return LinearStep(s, (Stage(t, Row(1.0, tuple((t - s) * w for w in ADAMS[order]))),), order)


@dataclass(frozen=True, config=STRICT)
class Ipndm(Solver):
    """Improved PNDM: Adams-Bashforth of orders 1, 2, .., `order`."""

    order: Annotated[int, Field(ge=1, le=4)] = 4

    def prepare(self, grid: Grid, process: Process) -> Plan:
        sigma = grid.sigma.tolist()
        orders, notes = step_orders(grid, self.order, "keep")
        steps = [adams_step(s, t, k) for s, t, k in zip(sigma, sigma[1:], orders)]
        return linear_plan("eps", steps, self.order - 1, notes)


@dataclass(frozen=True, config=STRICT)
class Pndm(Solver):
    """PNDM. start: `f` pseudo-Runge-Kutta steps until there is history for `order` (F-PNDM: order 4, N + 9
    calls), or `s`, one two-call step and then rising orders (S-PNDM: order 2, N + 1 calls)."""

    start: Literal["f", "s"] = "f"
    order: Annotated[int, Field(ge=2, le=4)] = 4

    def prepare(self, grid: Grid, process: Process) -> Plan:
        sigma = grid.sigma.tolist()
        warm_up = self.order - 1 if self.start == "f" else 1
        steps = []
        for i, (s, t) in enumerate(pairwise(sigma)):
            if t == 0:
                steps.append(adams_step(s, t, 1))
            elif i >= warm_up:
                steps.append(adams_step(s, t, min(self.order, i + 1)))
            elif self.start == "s":
                steps.append(_two_calls(s, t))
            else:
                middle = (grid.t[i] + grid.t[i + 1]) / 2
                steps.append(_pseudo_runge_kutta(s, float(process.sigma(middle)), t))
        return linear_plan("eps", steps, self.order - 1)


def _two_calls(s: float, t: float) -> LinearStep:
    h = t - s
    return LinearStep(s, (Stage(t, Row(1.0, (h,))), Stage(t, Row(1.0, (h / 2, h / 2)))), 2)


def _pseudo_runge_kutta(s: float, middle: float, t: float) -> LinearStep:
    """Kutta's weights with transfers instead of straight lines; the middle level is that of the middle
    time."""
    h, half = t - s, middle - s
    stages = (
        Stage(middle, Row(1.0, (half,))),
        Stage(middle, Row(1.0, (0.0, half))),
        Stage(t, Row(1.0, (0.0, 0.0, h))),
        Stage(t, Row(1.0, (h / 6, h / 3, h / 3, h / 6))),
    )
    return LinearStep(s, stages, 2)
