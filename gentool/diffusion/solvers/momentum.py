"""Momentum on the noise prediction, against the artefacts of strong guidance.

Source: "Diffusion Sampling with Momentum for Mitigating Divergence Artifacts" (2307.11118).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from gentool.diffusion.grids import Grid
from gentool.diffusion.process import Process
from gentool.diffusion.solvers.core import (
    STRICT,
    Plan,
    Predict,
    Row,
    Solver,
    State,
    apply,
    predicted,
    step_orders,
)
from gentool.diffusion.solvers.pndm import ADAMS
from gentool.noise import Noise

Velocity = Callable[[Tensor, tuple[Tensor, ...], int], tuple[Tensor, tuple[Tensor, ...]]]


def _velocity_plan(grid: Grid, orders: tuple[int, ...], notes: tuple[str, ...], velocity: Velocity) -> Plan:
    """Steps x + (sigma_t - sigma_s) e with e, history = velocity(eps, history, order); e = eps on the way to
    0."""
    sigma = grid.sigma.tolist()

    def step(state: State, i: int, predict: Predict, noise: Noise) -> State:
        eps = predicted("eps", predict, state.x, sigma[i])
        e, history = velocity(eps, state.history, orders[i])
        if sigma[i + 1] == 0:
            e = eps
        return State(torch.add(state.x, e, alpha=sigma[i + 1] - sigma[i]), history)

    return Plan(step, tuple(sigma), orders, notes)


@dataclass(frozen=True, config=STRICT)
class PlmsHeavyBall(Solver):
    """Adams-Bashforth of `order` filtered by v' = (1 - beta) v + beta g; beta = 1 is iPNDM.

    nesterov: steps with (1 - beta) v' + beta g instead of v'.
    """

    order: Annotated[int, Field(ge=1, le=4)] = 4
    beta: Annotated[float, Field(gt=0, le=1)] = 0.8
    nesterov: bool = False

    def prepare(self, grid: Grid, process: Process) -> Plan:
        orders, notes = step_orders(grid, self.order, "keep")

        def velocity(
            eps: Tensor, history: tuple[Tensor, ...], order: int
        ) -> tuple[Tensor, tuple[Tensor, ...]]:
            """history: v, then eps newest first; the first v is the first eps."""
            past = history[1:]
            g = apply(Row(ADAMS[order][0], ADAMS[order][1:]), eps, past)
            v = torch.lerp(history[0], g, self.beta) if history else eps
            e = torch.lerp(v, g, self.beta) if self.nesterov else v
            return e, (v, eps, *past)[: self.order]

        return _velocity_plan(grid, orders, notes, velocity)


@dataclass(frozen=True, config=STRICT)
class Ghvb(Solver):
    """Generalised heavy ball. order: k - 1 + beta in (0, 5]: 1.8 mixes 2 velocities with beta 0.8; whole
    numbers are Adams-Bashforth of that order."""

    order: Annotated[float, Field(gt=0, le=5)] = 2.8

    def prepare(self, grid: Grid, process: Process) -> Plan:
        terms = math.ceil(self.order)
        beta = self.order - (terms - 1)
        orders, notes = step_orders(grid, terms, "keep")

        def velocity(
            eps: Tensor, history: tuple[Tensor, ...], order: int
        ) -> tuple[Tensor, tuple[Tensor, ...]]:
            v = torch.lerp(history[0], eps, beta) if history else eps
            first, *rest = _mix(order, beta)
            return apply(Row(first, tuple(rest)), v, history), (v, *history)[: max(terms - 1, 1)]

        return _velocity_plan(grid, orders, notes, velocity)


def _mix(terms: int, b: float) -> tuple[float, ...]:
    """Weights of the velocities, newest first, that undo the filter's lag to order `terms`."""
    return {
        1: (1.0,),
        2: ((2 + b) / (2 * b), -(2 - b) / (2 * b)),
        3: ((18 + 5 * b) / (12 * b), -(24 - 8 * b) / (12 * b), (6 - b) / (12 * b)),
        4: (
            (46 + 9 * b) / (24 * b),
            -(78 - 19 * b) / (24 * b),
            (42 - 5 * b) / (24 * b),
            -(10 - b) / (24 * b),
        ),
        5: (
            (1650 + 251 * b) / (720 * b),
            -(3420 - 646 * b) / (720 * b),
            (2880 - 264 * b) / (720 * b),
            -(1380 - 106 * b) / (720 * b),
            (270 - 19 * b) / (720 * b),
        ),
    }[terms]
