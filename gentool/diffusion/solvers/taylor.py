"""The second truncated Taylor method on dx/dsigma = eps: what GENIE samples with.

Source: GENIE (Dockhorn, Vahdat and Kreis 2022, arXiv 2210.05475), section 3 and algorithm 1.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from gentool.diffusion.grids import Grid
from gentool.diffusion.process import Process
from gentool.diffusion.solvers.core import STRICT, Plan, Predict, Solver, State
from gentool.noise import Noise


@dataclass(frozen=True, config=STRICT)
class Taylor2(Solver):
    """x_t = x_s + h eps + h^2/2 d eps/d sigma, h = sigma_t - sigma_s; a step to sigma = 0 is x = x0.

    source: where the derivative comes from: the model's `head`, or `exact` differentiation of its prediction.
    """

    source: Literal["head", "exact"] = "exact"

    def prepare(self, grid: Grid, process: Process) -> Plan:
        sigma = grid.sigma.tolist()
        orders = tuple(1 if t == 0 else 2 for t in sigma[1:])

        def step(state: State, i: int, predict: Predict, noise: Noise) -> State:
            s, t = sigma[i], sigma[i + 1]
            if t == 0:
                return State(predict(state.x, s))
            x0, slope = predict.derivative(state.x, s, exact=self.source == "exact")
            return State(taylor(state.x, (state.x - x0) / s, slope, t - s))

        return Plan(step, tuple(sigma), orders)


def taylor(x: Tensor, eps: Tensor, slope: Tensor, h: float) -> Tensor:
    """x + h eps + h^2/2 slope: DDIM's step where the slope is zero."""
    return torch.add(torch.add(x, eps, alpha=h), slope, alpha=h * h / 2)
