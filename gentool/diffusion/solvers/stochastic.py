"""One-call solvers of the reverse SDE, from deterministic to ancestral.

Sources: DDPM (2006.11239), improved DDPM (2102.09672), DDIM (2010.02502) eq. 12 and 16, score SDE (2011.13456)
appendix E, DPDM (2210.09929), k-diffusion's two-stage SDE-DPM-Solver++. All formulas here are in the canonical state.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from itertools import pairwise
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
    LinearStep,
    Plan,
    Predict,
    Prediction,
    Row,
    Solver,
    Stage,
    State,
    first_order,
    linear_plan,
)
from gentool.diffusion.variational import variance_bounds
from gentool.noise import Noise


def ancestral_row(sigma_s: float, sigma_t: float, eta: float) -> Row:
    """DDIM(eta) on x0: down to sqrt(sigma_t^2 - up^2), then noise up; eta = 1 samples the posterior."""
    up = (
        eta * sigma_t * math.sqrt(1 - (sigma_t / sigma_s) ** 2) if eta else 0.0
    )  # encoding goes up, with eta = 0
    down = math.sqrt(sigma_t**2 - up**2)
    return Row(down / sigma_s, (1 - down / sigma_s,), up)


def one_call_plan(prediction: Prediction, grid: Grid, row: Callable[[int], Row]) -> Plan:
    """Steps of one row each; the step to sigma = 0 is x = x0 without noise."""
    sigma = grid.sigma.tolist()
    steps = [
        LinearStep(s, (Stage(t, row(i) if t > 0 else first_order(prediction, s, t)),), 1)
        for i, (s, t) in enumerate(pairwise(sigma))
    ]
    return linear_plan(prediction, steps)


class Ancestral(Solver):
    """One row on x0 a step: a mean and, where there is noise, a variance (classifier guidance may shift that mean)."""

    @abstractmethod
    def rows(self, grid: Grid, process: Process) -> Callable[[int], Row]:
        """The row of each step but one to sigma = 0."""

    def prepare(self, grid: Grid, process: Process) -> Plan:
        return one_call_plan("x0", grid, self.rows(grid, process))


def mean_gains(solver: Ancestral, grid: Grid, process: Process) -> Tensor:
    """(N,) float64: what grad_x log p is multiplied by and added to x0 where step i starts, so that the step's mean
    moves by its variance times grad_{x_t} log p (classifier guidance's ancestral form, 2105.05233 alg. 1).

    With x_t = alpha x and the row x' = a x + c x0 + up z, the variance of x'_t is (alpha' up)^2 and the gradient
    grad_x / alpha, so that x' moves by (alpha'/alpha) up^2 grad_x, and x0 by that over c. A step to 0 has no variance.
    """
    sigma, alpha = grid.sigma.tolist(), process.alpha(grid.t).tolist()
    row = solver.rows(grid, process)
    gains = []
    for i, t in enumerate(sigma[1:]):
        step = row(i)
        gains.append(alpha[i + 1] / alpha[i] * step.noise**2 / step.c[0] if t > 0 else 0.0)
    return torch.tensor(gains, dtype=torch.float64)


@dataclass(frozen=True, config=STRICT)
class Ddim(Ancestral):
    """DDIM. eta: 0 deterministic, 1 ancestral sampling (k-diffusion's "Euler ancestral")."""

    eta: Annotated[float, Field(ge=0, le=1)] = 0.0

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def rows(self, grid: Grid, process: Process) -> Callable[[int], Row]:
        sigma = grid.sigma.tolist()
        return lambda i: ancestral_row(sigma[i], sigma[i + 1], self.eta)


@dataclass(frozen=True, config=STRICT)
class Ddpm(Ancestral):
    """Ancestral sampling. variance: `small`, the posterior's for a point of data, or `large`, the forward
    kernel's. temperature: multiplies the noise that steps add (not the one that sampling starts from); below 1 samples
    are more alike and stray less, 0 leaves the means."""

    variance: Literal["small", "large"] = "small"
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0

    @property
    def stochastic(self) -> bool:
        return True  # at temperature 0 too: its means are no flow that could be followed back

    def rows(self, grid: Grid, process: Process) -> Callable[[int], Row]:
        sigma, alpha = grid.sigma.tolist(), process.alpha(grid.t).tolist()

        def row(i: int) -> Row:
            s, t = sigma[i], sigma[i + 1]
            a = (t / s) ** 2
            small, large = variance_bounds(s, t, alpha[i], alpha[i + 1])
            std = math.sqrt(small if self.variance == "small" else large)
            return Row(a, (1 - a,), self.temperature * std)

        return row


@dataclass(frozen=True, config=STRICT)
class DdpmLearned(Solver):
    """Ancestral sampling with the variances that the network learned (improved DDPM, 2102.09672, eq. 15)."""

    @property
    def stochastic(self) -> bool:
        return True

    def prepare(self, grid: Grid, process: Process) -> Plan:
        sigma, alpha = grid.sigma.tolist(), process.alpha(grid.t).tolist()
        clock = BrownianClock(sigma)

        def step(state: State, i: int, predict: Predict, noise: Noise) -> State:
            s, t = sigma[i], sigma[i + 1]
            if t == 0:
                return State(predict(state.x, s))
            x0, v = predict.with_variance(state.x, s)
            low, high = (math.log(b) for b in variance_bounds(s, t, alpha[i], alpha[i + 1]))
            std = ((low + (v + 1) / 2 * (high - low)) / 2).exp()
            return State(torch.lerp(x0, state.x, (t / s) ** 2) + std * clock(noise, s, t).to(x0.dtype))

        return Plan(step, tuple(sigma), (1,) * grid.steps)


@dataclass(frozen=True, config=STRICT)
class EulerMaruyama(Solver):
    """Euler-Maruyama in the process's time on dx = [f x + (1 + nu^2)/2 g^2/std eps] dt + nu g dw.

    nu: 1 the reverse SDE, 0 the probability flow (plain Euler).
    """

    nu: Annotated[float, Field(ge=0)] = 1.0

    @property
    def stochastic(self) -> bool:
        return self.nu > 0

    def prepare(self, grid: Grid, process: Process) -> Plan:
        return one_call_plan("eps", grid, euler_rows(grid, process, self.nu))


def euler_rows(grid: Grid, process: Process, nu: float) -> Callable[[int], Row]:
    """Row of step i on eps, in the canonical state (hence alpha_s/alpha_t; g^2/(std alpha) = 2 sigma')."""
    alpha, sigma, f, slope = time_tables(grid, process)
    t = grid.t.tolist()

    def row(i: int) -> Row:
        dt, scale = t[i + 1] - t[i], alpha[i] / alpha[i + 1]
        noise = nu * math.sqrt(2 * sigma[i] * slope[i] * abs(dt))
        return Row(scale * (1 + f[i] * dt), (scale * (1 + nu**2) * slope[i] * dt,), scale * noise)

    return row


def time_tables(grid: Grid, process: Process) -> tuple[list[float], list[float], list[float], list[float]]:
    """alpha, sigma, d ln alpha/dt and d sigma/dt at the grid's points; the slopes only where sigma > 0."""
    inside = torch.where(grid.sigma > 0, grid.t, grid.t.max())  # the slope may be infinite at t = 0
    return (
        process.alpha(grid.t).tolist(),
        grid.sigma.tolist(),
        process.dlog_alpha(inside).tolist(),
        process.dsigma(inside).tolist(),
    )


@dataclass(frozen=True, config=STRICT)
class StochasticDdim(Solver):
    """Euler-Maruyama in sigma: x + 2 (sigma_t - sigma_s) eps + sqrt(2 |sigma_t - sigma_s| sigma_s) z (DPDM,
    2.5)."""

    @property
    def stochastic(self) -> bool:
        return True

    def prepare(self, grid: Grid, process: Process) -> Plan:
        sigma = grid.sigma.tolist()

        def row(i: int) -> Row:
            d = sigma[i + 1] - sigma[i]
            return Row(1.0, (2 * d,), math.sqrt(2 * abs(d) * sigma[i]))

        return one_call_plan("eps", grid, row)


@dataclass(frozen=True, config=STRICT)
class DpmppSde2s(Solver):
    """SDE-DPM-Solver++ 2S: an ancestral step to the fraction r of the step in lam, then the whole step with
    both x0.

    The two noises are increments of one Brownian path over [s, m] and [s, t], hence correlated.
    """

    eta: Annotated[float, Field(ge=0, le=1)] = 1.0
    r: Annotated[float, Field(gt=0, lt=1)] = 0.5

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def prepare(self, grid: Grid, process: Process) -> Plan:
        sigma = grid.sigma.tolist()
        steps = []
        for s, t in pairwise(sigma):
            if t == 0:
                steps.append(LinearStep(s, (Stage(t, first_order("x0", s, t)),), 1))
                continue
            middle = s ** (1 - self.r) * t**self.r
            a, (c,), noise = ancestral_row(s, t, self.eta)
            whole = Row(a, (c * (1 - 1 / (2 * self.r)), c / (2 * self.r)), noise)
            order = 1 if self.stochastic else 2
            steps.append(
                LinearStep(s, (Stage(middle, ancestral_row(s, middle, self.eta)), Stage(t, whole)), order)
            )
        return linear_plan("x0", steps)
