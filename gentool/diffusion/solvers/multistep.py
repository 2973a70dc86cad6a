"""Linear multistep solvers: one call a step, and the predictions of past steps.

Sources: DEIS (2204.13902) and DPM-Solver++ (2211.01095) algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gentool.diffusion.grids import Grid
from gentool.diffusion.process import Process
from gentool.diffusion.solvers.core import (
    STRICT,
    FinalOrder,
    LinearStep,
    Plan,
    Prediction,
    Row,
    Solver,
    Stage,
    exponential,
    first_order,
    linear_plan,
    step_orders,
)
from gentool.errors import UserError

Variable = Literal["t", "lam", "sigma"]
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def lagrange_row(
    prediction: Prediction, variable: Variable, nodes: Sequence[float], sigma_t: float, process: Process
) -> Row:
    """The exponential multistep rule from nodes[0] to sigma_t.

    The prediction is replaced by its interpolant, a polynomial in `variable`, through the nodes (levels
    sigma, the step's start first), and x_t = A x_s + integral of weight * interpolant is taken exactly. With
    sigma_t among the nodes the rule is implicit. The integral runs over lam, where every integrand is smooth.
    """
    if len(nodes) == 1:
        return first_order(prediction, nodes[0], sigma_t)
    lam_s, lam_t = -math.log(nodes[0]), -math.log(sigma_t)
    lam = (lam_s + lam_t) / 2 + (lam_t - lam_s) / 2 * _POINTS
    weight = np.exp(lam - lam_t) if prediction == "x0" else -np.exp(-lam)
    weight = (lam_t - lam_s) / 2 * _WEIGHTS * weight
    of_sigma = _VARIABLES[variable]
    u, at = of_sigma(np.exp(-lam), process), of_sigma(np.array(nodes), process)
    c = []
    for j in range(len(at)):
        others = np.delete(at, j)
        basis = np.prod((u[:, None] - others) / (at[j] - others), axis=1)
        c.append(float(np.dot(weight, basis)))
    return Row(sigma_t / nodes[0] if prediction == "x0" else 1.0, tuple(c))


def _time(sigma: NDArray[np.float64], process: Process) -> NDArray[np.float64]:
    return process.t_of_sigma(torch.from_numpy(sigma)).numpy()


_VARIABLES: dict[Variable, Callable[[NDArray[np.float64], Process], NDArray[np.float64]]] = {
    "t": _time,
    "lam": lambda sigma, process: -np.log(sigma),
    "sigma": lambda sigma, process: sigma,
}


def multistep_plan(
    prediction: Prediction,
    grid: Grid,
    orders: Sequence[int],
    row: Callable[[list[float], float], Row],
    notes: tuple[str, ...] = (),
) -> Plan:
    """Steps of given orders; `row(nodes, sigma_t)` gives the coefficients for nodes newest first."""
    sigma = grid.sigma.tolist()
    steps = []
    for i, order in enumerate(orders):
        nodes, target = sigma[i : i - order if i >= order else None : -1], sigma[i + 1]
        now = row(nodes, target) if target > 0 else first_order(prediction, sigma[i], target)
        steps.append(LinearStep(sigma[i], (Stage(target, now),), order))
    return linear_plan(prediction, steps, max(orders) - 1, notes)


@dataclass(frozen=True, config=STRICT)
class Lagrange(Solver):
    """Adams-Bashforth on the exponentially integrated flow: DEIS tAB (`t`), rho-AB = LMS (`sigma`), log-rho
    (`lam`).

    order: points of the interpolant, 1 to 4; the DEIS paper's tAB-r has order r + 1.
    variable: what the interpolant is a polynomial in.
    prediction: what is interpolated.
    final_order: see `core.step_orders`.
    """

    variable: Variable
    order: Annotated[int, Field(ge=1, le=4)] = 4
    prediction: Prediction = "eps"
    final_order: FinalOrder = "keep"

    def prepare(self, grid: Grid, process: Process) -> Plan:
        orders, notes = step_orders(grid, self.order, self.final_order)
        return multistep_plan(
            self.prediction,
            grid,
            orders,
            lambda nodes, target: lagrange_row(self.prediction, self.variable, nodes, target, process),
            notes,
        )


@dataclass(frozen=True, config=STRICT)
class DpmMultistep(Solver):
    """DPM-Solver(++) 1M, 2M, 3M, and SDE-DPM-Solver++ with eta > 0.

    kind: how 2M uses the difference of the last two predictions: `midpoint` (the papers' default) or `heun`
        (exact for a prediction linear in lam).
    exact: the third order's quadratic term in full. Every released code halves it, which makes 3M order 2.
    eta: 0 the flow, 1 the reverse SDE; for x0 alone.
    final_order: see `core.step_orders`.
    """

    order: Annotated[int, Field(ge=1, le=3)]
    prediction: Prediction = "x0"
    kind: Literal["midpoint", "heun"] = "midpoint"
    exact: bool = False
    eta: Annotated[float, Field(ge=0)] = 0.0
    final_order: FinalOrder = "auto"

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def prepare(self, grid: Grid, process: Process) -> Plan:
        if self.stochastic and self.prediction == "eps":
            raise UserError("eta > 0 needs the x0 prediction", "sample.options.eta")
        orders, notes = step_orders(grid, self.order, self.final_order)
        return multistep_plan(self.prediction, grid, orders, self._row, notes)

    def _row(self, nodes: list[float], sigma_t: float) -> Row:
        """Nodes newest first. D1 is the difference quotient in units of h, D2 the second one; q^(k) of
        `exponential`."""
        h = math.log(nodes[0] / sigma_t)
        a, (p1, p2, p3) = exponential(self.prediction, nodes[0], sigma_t, self.eta)
        noise = sigma_t * math.sqrt(-math.expm1(-2 * self.eta * h))
        if len(nodes) == 1:
            return Row(a, (p1,), noise)
        r0 = math.log(nodes[1] / nodes[0]) / h
        d10 = np.array([1, -1, 0]) / r0
        if len(nodes) == 2:
            c = p1 * np.array([1, 0, 0]) + (p1 / 2 if self.kind == "midpoint" else p2) * d10
            return Row(a, tuple(c[:2].tolist()), noise)
        r1 = math.log(nodes[2] / nodes[1]) / h
        bend = (d10 - np.array([0, 1, -1]) / r1) / (r0 + r1)
        d1, d2 = d10 + r0 * bend, (2 if self.exact else 1) * bend
        c = p1 * np.array([1, 0, 0]) + p2 * d1 + p3 * d2
        return Row(a, tuple(c.tolist()), noise)
