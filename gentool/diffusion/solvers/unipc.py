"""UniPC: a predictor of order p whose next call serves a corrector of order p + 1 as well.

Source: UniPC (2302.04867) algorithms 1 (UniC) and 2 (UniP).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from gentool.diffusion.grids import Grid
from gentool.diffusion.process import Process
from gentool.diffusion.solvers.core import (
    STRICT,
    FinalOrder,
    Plan,
    Predict,
    Prediction,
    Row,
    Solver,
    State,
    apply,
    first_order,
    phi,
    predicted,
    step_orders,
)
from gentool.noise import Noise


@dataclass(frozen=True, config=STRICT)
class UniPC(Solver):
    """UniPC-p; a step's call is made at the predicted state, then corrects it before the next prediction.

    order: p of the predictor; with the corrector the method has order p + 1.
    variant: B(h) = h (`bh1`, small guidance) or e^h - 1 (`bh2`); equal when the systems are solved in full.
    corrector: off leaves the predictor, UniP-p.
    full_solve: solve the systems of one unknown too, which every released code replaces by 1/2.
    final_order: see `core.step_orders`.
    """

    order: Annotated[int, Field(ge=1, le=4)] = 3
    variant: Literal["bh1", "bh2"] = "bh2"
    prediction: Prediction = "x0"
    corrector: bool = True
    full_solve: bool = False
    final_order: FinalOrder = "auto"

    def prepare(self, grid: Grid, process: Process) -> Plan:
        sigma = grid.sigma.tolist()
        orders, notes = step_orders(grid, self.order, self.final_order)
        predictors, correctors = [], []
        for i, order in enumerate(orders):
            nodes, target = sigma[i : i - order if i >= order else None : -1], sigma[i + 1]
            predictors.append(self._row(nodes, target, implicit=False))
            if self.corrector and i + 1 < grid.steps:
                correctors.append(self._row(nodes, target, implicit=True))

        def step(state: State, i: int, predict: Predict, noise: Noise) -> State:
            """history: the corrected state of the step before, then predictions newest first."""
            now = predicted(self.prediction, predict, state.x, sigma[i])
            past, x = state.history[1:], state.x
            if correctors and i > 0:
                x = apply(correctors[i - 1], state.history[0], (now, *past))
            ahead = apply(predictors[i], x, (now, *past))
            return State(ahead, (x, now, *past)[: 1 + self.order])

        return Plan(step, tuple(sigma), orders, notes)

    def _row(self, nodes: list[float], sigma_t: float, *, implicit: bool) -> Row:
        """From nodes[0] to sigma_t. An implicit row's first coefficient is that of the prediction at
        sigma_t."""
        if sigma_t == 0 or (len(nodes) == 1 and not implicit):
            return first_order(self.prediction, nodes[0], sigma_t)
        h, p = math.log(nodes[0] / sigma_t), len(nodes)
        hh = -h if self.prediction == "x0" else h
        scale = hh if self.variant == "bh1" else math.expm1(hh)
        if self.prediction == "eps":
            a, signal = 1.0, sigma_t
        else:
            a, signal = sigma_t / nodes[0], 1.0
        r = [math.log(nodes[0] / node) / h for node in nodes[1:]] + [1.0] * implicit
        n = len(r)
        matrix = np.array([[ratio**k for ratio in r] for k in range(n)])
        right = [hh * phi(k + 1, hh) * math.factorial(k) / scale for k in range(1, n + 1)]
        weights = np.linalg.solve(matrix, right) if n > 1 or self.full_solve else np.array([0.5])
        # the rule is base - signal * scale * sum_j weight_j (M_j - M_0)/r_j with base = a x - signal (e^hh -
        # 1) M_0
        c = -signal * scale * weights / np.array(r)
        here = -signal * math.expm1(hh) - float(c.sum())
        past = c[: p - 1].tolist()
        return Row(a, (*([float(c[-1])] if implicit else []), here, *past))
