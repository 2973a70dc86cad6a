"""Predictor-corrector sampling (score SDE, 2011.13456, appendix G)."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from gentool.diffusion.grids import Grid
from gentool.diffusion.process import Process
from gentool.diffusion.solvers.core import (
    STRICT,
    BrownianClock,
    Plan,
    Predict,
    Row,
    Solver,
    State,
    apply,
    first_order,
    predicted,
)
from gentool.diffusion.solvers.stochastic import euler_rows, time_tables
from gentool.noise import Noise


@dataclass(frozen=True, config=STRICT)
class PredictorCorrector(Solver):
    """Langevin steps at each level, then one step down.

    corrector_steps: Langevin steps per level. snr: their signal-to-noise ratio (0.16 for CIFAR-10 VE), with
        norms per sample (the released code averages them over the batch).
    predictor: `reverse-diffusion` (the forward kernel's own drift and noise) or `euler-maruyama`.
    """

    corrector_steps: Annotated[int, Field(ge=1)] = 1
    snr: Annotated[float, Field(gt=0)] = 0.16
    predictor: Literal["reverse-diffusion", "euler-maruyama"] = "reverse-diffusion"

    @property
    def stochastic(self) -> bool:
        return True

    def prepare(self, grid: Grid, process: Process) -> Plan:
        alpha, sigma, f, _ = time_tables(grid, process)
        euler, clock = euler_rows(grid, process, nu=1.0), BrownianClock(sigma)

        def row(i: int) -> Row:
            s, t = sigma[i], sigma[i + 1]
            if t == 0:
                return first_order("eps", s, t)
            return (
                euler(i)
                if self.predictor == "euler-maruyama"
                else _reverse_diffusion(alpha[i] / alpha[i + 1], s, t)
            )

        rows = [row(i) for i in range(grid.steps)]
        # 1 - beta_n of the 1000-level chain the paper tuned snr on; 1 for VE
        damping = [1 + 2 * slope / 1000 for slope in f]

        def step(state: State, i: int, predict: Predict, noise: Noise) -> State:
            x = state.x
            for k in range(self.corrector_steps):
                z = noise.normal("corrector", i * self.corrector_steps + k).to(x.dtype)
                score = predicted("eps", predict, x, sigma[i]) / -sigma[i]
                size = 2 * damping[i] * (self.snr * _norm(z) / _norm(score)) ** 2
                x = x + size * score + (2 * size).sqrt() * z
            x = apply(rows[i], x, (predicted("eps", predict, x, sigma[i]),))
            if rows[i].noise:
                x = torch.add(x, clock(noise, sigma[i], sigma[i + 1]).to(x.dtype), alpha=rows[i].noise)
            return State(x)

        return Plan(step, tuple(sigma), (1,) * grid.steps)


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).view(-1, *[1] * (x.dim() - 1))


def _reverse_diffusion(a: float, s: float, t: float) -> Row:
    """x_t = (2 - a) x_s + q^2 score + q z for the forward kernel x_s ~ N(a x_t, q^2), in the canonical state
    on eps."""
    q2 = s**2 - t**2
    return Row(a * (2 - a), (-a * q2 / s,), a * math.sqrt(q2))
