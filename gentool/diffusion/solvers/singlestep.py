"""Single-step solvers: several calls a step, no memory between steps.

Sources: EDM (2206.00364) algorithm 2 and appendix D.2, DPM-Solver (2206.00927) algorithms 1 and 2,
DPM-Solver++ (2211.01095) algorithm 1, DEIS (2204.13902) rho-RK.
"""

from __future__ import annotations

import math
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
    Prediction,
    Row,
    Solver,
    Stage,
    exponential,
    first_order,
    linear_plan,
)
from gentool.diffusion.solvers.stochastic import euler_rows, time_tables


@dataclass(frozen=True, config=STRICT)
class HeunInTime(Solver):
    """Heun on dx/dt = f x + g^2/(2 std) eps in the process's own time."""

    def prepare(self, grid: Grid, process: Process) -> Plan:
        alpha, sigma, f, slope = time_tables(grid, process)
        euler, t = euler_rows(grid, process, nu=0.0), grid.t.tolist()
        steps = []
        for i in range(grid.steps):
            if sigma[i + 1] == 0:
                steps.append(LinearStep(sigma[i], (Stage(0.0, first_order("eps", sigma[i], 0.0)),), 1))
                continue
            guess, half = euler(i), (t[i + 1] - t[i]) / 2
            scale, bend = alpha[i] / alpha[i + 1], half * f[i + 1]
            row = Row(
                scale * (1 + half * f[i]) + bend * guess.a,
                (scale * half * slope[i] + bend * guess.c[0], half * slope[i + 1]),
            )
            steps.append(LinearStep(sigma[i], (Stage(sigma[i + 1], guess), Stage(sigma[i + 1], row)), 2))
        return linear_plan("eps", steps)


@dataclass(frozen=True, config=STRICT)
class Edm(Solver):
    """EDM's algorithm 2: a second-order step in sigma, after s_churn's noise.

    s_churn: noise added in all, shared among N steps; 0 is deterministic. s_min, s_max: levels where it is
        added.
    s_noise: its standard deviation, slightly above 1 to make up for the denoiser's loss of detail.
    max_gamma: the largest relative rise of a level (EDM sqrt(2) - 1, DPDM 1).
    alpha: where the second call lies: 1 Heun, 2/3 Ralston, 1/2 midpoint.
    """

    s_churn: Annotated[float, Field(ge=0)] = 0.0
    s_min: Annotated[float, Field(ge=0)] = 0.0
    s_max: Annotated[float, Field(ge=0)] = 1e9
    s_noise: Annotated[float, Field(gt=0)] = 1.0
    max_gamma: Annotated[float, Field(gt=0)] = math.sqrt(2) - 1
    alpha: Annotated[float, Field(gt=0, le=1)] = 1.0

    @property
    def stochastic(self) -> bool:
        return self.s_churn > 0

    def prepare(self, grid: Grid, process: Process) -> Plan:
        sigma = grid.sigma.tolist()
        steps = []
        for s, t in pairwise(sigma):
            gamma = min(self.s_churn / grid.steps, self.max_gamma) if self.s_min <= s <= self.s_max else 0.0
            hat = s * (1 + gamma)
            churn = self.s_noise * math.sqrt(hat**2 - s**2)
            if t == 0:
                steps.append(LinearStep(hat, (Stage(t, first_order("eps", hat, t)),), 1, churn))
                continue
            h, share = t - hat, 1 / (2 * self.alpha)
            inner = Stage(hat + self.alpha * h, Row(1.0, (self.alpha * h,)))
            steps.append(LinearStep(hat, (inner, Stage(t, Row(1.0, (h * (1 - share), h * share)))), 2, churn))
        return linear_plan("eps", steps)


def block(prediction: Prediction, s: float, t: float, inner: list[float]) -> LinearStep:
    """A DPM-Solver(++) step of order 1 + len(inner) from level s to t with calls at the inner levels."""
    if t == 0 or not inner:
        return LinearStep(s, (Stage(t, first_order(prediction, s, t)),), 1)
    h = math.log(s / t)
    r = [math.log(s / m) / h for m in inner]
    a, (p1, p2, _) = exponential(prediction, s, t)
    first = Stage(inner[0], first_order(prediction, s, inner[0]))
    if len(inner) == 1:
        share = p1 / (2 * r[0])
        return LinearStep(s, (first, Stage(t, Row(a, (p1 - share, share)))), 2)
    a2, (q1, q2, _) = exponential(prediction, s, inner[1])
    bend = r[1] / r[0] * q2
    second = Stage(inner[1], Row(a2, (q1 - bend, bend)))
    return LinearStep(s, (first, second, Stage(t, Row(a, (p1 - p2 / r[1], 0.0, p2 / r[1])))), 3)


def split(s: float, t: float, fractions: list[float]) -> list[float]:
    """Levels at fractions of the step in lam; none of a step to sigma = 0."""
    return [s ** (1 - r) * t**r for r in fractions] if t > 0 else []


@dataclass(frozen=True, config=STRICT)
class Dpm(Solver):
    """Single-step DPM-Solver (`eps`) and DPM-Solver++ (`x0`) of order 1, 2 or 3.

    r: where the second-order step makes its second call, as a fraction of the step in lam.
    """

    order: Annotated[int, Field(ge=1, le=3)]
    prediction: Prediction = "x0"
    r: Annotated[float, Field(gt=0, le=1)] = 0.5

    def prepare(self, grid: Grid, process: Process) -> Plan:
        sigma = grid.sigma.tolist()
        fractions = {1: [], 2: [self.r], 3: [1 / 3, 2 / 3]}[self.order]
        return linear_plan(
            self.prediction,
            [block(self.prediction, s, t, split(s, t, fractions)) for s, t in pairwise(sigma)],
        )


@dataclass(frozen=True, config=STRICT)
class DpmFast(Solver):
    """DPM-Solver-fast: N calls in all, in blocks of `order` and a remainder of lower order.

    On a log-snr grid the blocks have equal length in lam; on others they join grid points, and the points
    between are where the inner calls lie. A block that would reach sigma = 0 with inner calls is cut before
    the last call.
    """

    order: Literal[2, 3] = 3
    prediction: Prediction = "eps"

    def prepare(self, grid: Grid, process: Process) -> Plan:
        sigma, sizes = grid.sigma.tolist(), self._sizes(grid.steps)
        if sigma[-1] == 0 and sizes[-1] > 1:
            sizes[-1:] = [sizes[-1] - 1, 1]
        if grid.name == "log-snr" and sigma[-1] > 0:
            ends = split(sigma[0], sigma[-1], [k / len(sizes) for k in range(len(sizes) + 1)])
            fractions = {1: [], 2: [1 / 2], 3: [1 / 3, 2 / 3]}
            inner = [split(s, t, fractions[size]) for s, t, size in zip(ends, ends[1:], sizes)]
        else:
            marks = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
            ends = [sigma[mark] for mark in marks]
            inner = [sigma[a + 1 : b] for a, b in pairwise(marks)]
        return linear_plan(
            self.prediction, [block(self.prediction, s, t, m) for s, t, m in zip(ends, ends[1:], inner)]
        )

    def _sizes(self, calls: int) -> list[int]:
        whole, rest = divmod(calls, self.order)
        if self.order == 3 and rest == 0:  # the paper ends 3n calls on 2, 1: the last step is of order 1
            return [3] * (whole - 1) + [2, 1]
        return [self.order] * whole + [rest] * (rest > 0)


_TABLEAUX: dict[str, tuple[list[list[float]], list[float], int]] = {
    # rows of a (below the first stage), b, order; c is the row sum
    "midpoint2": ([[1 / 2]], [0, 1], 2),
    "heun2": ([[1]], [1 / 2, 1 / 2], 2),
    "kutta3": ([[1 / 2], [-1, 2]], [1 / 6, 2 / 3, 1 / 6], 3),
    "heun3": ([[1 / 3], [0, 2 / 3]], [1 / 4, 0, 3 / 4], 3),
    "ralston3": ([[1 / 2], [0, 3 / 4]], [2 / 9, 1 / 3, 4 / 9], 3),
    "ssprk3": ([[1], [1 / 4, 1 / 4]], [1 / 6, 1 / 6, 2 / 3], 3),
    "vdh3": ([[8 / 15], [1 / 4, 5 / 12]], [1 / 4, 0, 3 / 4], 3),  # van der Houwen
    "rk4": ([[1 / 2], [0, 1 / 2], [0, 0, 1]], [1 / 6, 1 / 3, 1 / 3, 1 / 6], 4),
}


@dataclass(frozen=True, config=STRICT)
class RungeKutta(Solver):
    """DEIS rho-RK: a classical explicit Runge-Kutta method on dx/d sigma = eps."""

    tableau: Literal["midpoint2", "heun2", "kutta3", "heun3", "ralston3", "ssprk3", "vdh3", "rk4"] = "kutta3"

    def prepare(self, grid: Grid, process: Process) -> Plan:
        sigma = grid.sigma.tolist()
        rows, b, order = _TABLEAUX[self.tableau]
        steps = []
        for s, t in pairwise(sigma):
            h = t - s
            inner = [Stage(s + h * sum(a), Row(1.0, tuple(h * w for w in a))) for a in rows]
            if t == 0:
                steps.append(LinearStep(s, (Stage(t, first_order("eps", s, t)),), 1))
            else:
                steps.append(LinearStep(s, (*inner, Stage(t, Row(1.0, tuple(h * w for w in b)))), order))
        return linear_plan("eps", steps)
