"""Solvers of critically-damped Langevin diffusion, whose states carry a velocity: (B, 2, ...).

Source: CLD-SGM (2112.07068), sections 3.3 and appendix D. Sampling runs s backwards; with S = grad_w log p,
dx = -w ds and dw = [x + 2 w + 2 (1 + nu^2) S] ds + 2 nu dW, the probability flow for nu = 0 and the reverse SDE for 1.

All steps but the adaptive ones are linear in the state and in the x0 predictions: 2x2 tables of floats for one grid.
A step to sigma = 0 is the paper's denoising step, Euler's without noise; of the data it changes x by -w s alone, which
asks for no score, so no network call is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from gentool.diffusion.convert import per_sample
from gentool.diffusion.grids import Grid
from gentool.diffusion.langevin.process import Langevin, covariance
from gentool.diffusion.process import Process
from gentool.diffusion.solvers.adaptive import Rk45
from gentool.diffusion.solvers.core import STRICT, BrownianClock, Plan, Predict, Solver, State, Step
from gentool.errors import UserError
from gentool.noise import Noise

Matrix = np.ndarray
"""(2, 2) float64 over (x, w)."""
Pair = np.ndarray
"""(2,) float64 over (x, w)."""


class Move(NamedTuple):
    """u' = matrix u + sum_j shares_j q_j + noise z: q_j x0 predictions, z (B, 2, ...) standard normal."""

    matrix: Matrix
    shares: tuple[Pair, ...] = ()
    noise: Matrix | None = None

    def __call__(self, state: Tensor, predictions: Sequence[Tensor] = (), z: Tensor | None = None) -> Tensor:
        rows = []
        for row in (0, 1):
            out = _dot(self.matrix[row], state)
            for share, q in zip(self.shares, predictions):
                out = torch.add(out, q, alpha=float(share[row])) if share[row] else out
            if self.noise is not None and z is not None and self.noise[row].any():
                out = out + _dot(self.noise[row], z)
            rows.append(out)
        return torch.stack(rows, 1)

    def then(self, after: Move) -> Move:
        """This move and then one that makes no predictions of its own; only the latter's noise is drawn."""
        return Move(
            after.matrix @ self.matrix, tuple(after.matrix @ share for share in self.shares), after.noise
        )


def _dot(row: Pair, state: Tensor) -> Tensor:
    return torch.add(state[:, 0] * float(row[0]), state[:, 1], alpha=float(row[1]))


IDENTITY = np.eye(2)


def score_row(process: Langevin, t: float) -> tuple[Pair, float]:
    """S = row . (x, w) + share q, for the x0 prediction q at t."""
    on_x, on_w, on_x0 = (float(c) for c in process.score(torch.tensor(t, dtype=torch.float64)))
    return np.array([on_x, on_w]), on_x0


def slope(process: Langevin, t: float, nu: float) -> tuple[Matrix, Pair]:
    """du/ds of sampling as (matrix, share): matrix u + share q."""
    row, share = score_row(process, t)
    weight = 2 * (1 + nu**2)
    return np.array([[0.0, -1.0], [1.0, 2.0]]) + weight * np.outer([0, 1], row), np.array([0, weight * share])


def equilibrium(h: float) -> Move:
    """The part of the reverse SDE that leaves N(0, I) alone, dx = -w ds and dw = (x - 2 w) ds + 2 dW, over h, exactly.

    Its noise is factored with w first, so that where h is small z's second row is the Brownian increment of w.
    """
    found = covariance(torch.tensor(h, dtype=torch.float64), 0.0)
    xw, ww, det = (float(c) for c in (found.xw, found.ww, found.det))
    flow = math.exp(-h) * np.array([[1 + h, -h], [h, 1 - h]])
    noise = np.array([[math.sqrt(det / ww), -xw / math.sqrt(ww)], [0, math.sqrt(ww)]])
    return Move(flow, noise=noise)


class _Times(NamedTuple):
    """The grid in time and level, down to the last level above 0, and the length of the step to 0 (0: none)."""

    process: Langevin
    t: list[float]
    s: list[float]
    sigma: list[float]
    last: float


def _times(grid: Grid, process: Process) -> _Times:
    if not isinstance(process, Langevin):
        raise TypeError(f"these solvers are for Langevin diffusion, not {process.name}")
    sigma = grid.sigma.tolist()
    if 0 in sigma and len(sigma) < 3:
        raise UserError(
            "one step to sigma = 0 would not ask the network at all: take at least 2 steps", "sample.steps"
        )
    inside = grid.sigma > 0
    s = process.s(grid.t)[inside].tolist()
    return _Times(
        process,
        grid.t[inside].tolist(),
        s,
        grid.sigma[inside].tolist(),
        s[-1] if sigma[-1] == 0 else 0.0,
    )


def _finished(times: _Times, steps: Sequence[Step], order: int, sigmas: Sequence[float]) -> Plan:
    """A plan of these steps, and of the step to 0 where the grid has it."""

    def step(state: State, i: int, predict: Predict, noise: Noise) -> State:
        return steps[i](state, i, predict, noise) if i < len(steps) else State(land(state.x))

    land = Move(np.array([[1.0, -times.last], [0.0, 1.0]]))
    ends = bool(times.last)
    return Plan(step, (*sigmas, *[0.0] * ends), (*[order] * len(steps), *[1] * ends))


@dataclass(frozen=True, config=STRICT)
class LangevinEuler(Solver):
    """Euler-Maruyama of the reverse SDE (nu = 1), or Euler of the probability flow (nu = 0)."""

    state_parts: ClassVar[int] = 2
    nu: Annotated[float, Field(ge=0)] = 1.0

    @property
    def stochastic(self) -> bool:
        return self.nu > 0

    def prepare(self, grid: Grid, process: Process) -> Plan:
        times = _times(grid, process)
        clock = BrownianClock(times.sigma) if self.nu else None
        moves = []
        for t, s, end in zip(times.t, times.s, times.s[1:]):
            h = s - end  # negative when the grid runs up, to encode
            matrix, share = slope(times.process, t, self.nu)
            noise = np.diag([0, 2 * self.nu * math.sqrt(h)]) if clock is not None else None
            moves.append(Move(IDENTITY + h * matrix, (h * share,), noise))

        def step(state: State, i: int, predict: Predict, noise: Noise) -> State:
            q = predict(state.x, times.sigma[i])
            z = None if clock is None else clock(noise, times.sigma[i], times.sigma[i + 1]).to(state.x.dtype)
            return State(moves[i](state.x, (q,), z))

        return _finished(times, [step] * len(moves), 1, times.sigma)


@dataclass(frozen=True, config=STRICT)
class LangevinHeun(Solver):
    """Heun on the probability flow in s."""

    state_parts: ClassVar[int] = 2

    def prepare(self, grid: Grid, process: Process) -> Plan:
        times = _times(grid, process)
        moves = []
        for (t, end_t), (s, end) in zip(pairwise(times.t), pairwise(times.s)):
            h = s - end
            (here, share), (there, other) = (slope(times.process, at, 0.0) for at in (t, end_t))
            euler = Move(IDENTITY + h * here, (h * share,))
            matrix = IDENTITY + h / 2 * (here + there @ euler.matrix)
            whole = Move(matrix, (h / 2 * (share + there @ euler.shares[0]), h / 2 * other))
            moves.append((euler, whole))

        def step(state: State, i: int, predict: Predict, noise: Noise) -> State:
            euler, whole = moves[i]
            first = predict(state.x, times.sigma[i])
            second = predict(euler(state.x, (first,)), times.sigma[i + 1])
            return State(whole(state.x, (first, second)))

        return _finished(times, [step] * len(moves), 2, times.sigma)


@dataclass(frozen=True, config=STRICT)
class Sscs(Solver):
    """Symmetric splitting CLD sampler: half of the equilibrium's dynamics exactly, the kick w += 4 (S + w) ds with the
    score of the step's start, and the other half."""

    state_parts: ClassVar[int] = 2

    @property
    def stochastic(self) -> bool:
        return True

    def prepare(self, grid: Grid, process: Process) -> Plan:
        times = _times(grid, process)
        langevin, moves, middles = times.process, [], []
        for (t, end_t), (s, end) in zip(pairwise(times.t), pairwise(times.s)):
            middle = torch.tensor((t + end_t) / 2, dtype=torch.float64)
            at = float(langevin.s(middle))
            row, share = score_row(langevin, t)
            h = s - end
            kick = Move(IDENTITY + 4 * h * np.outer([0, 1], row + [0, 1]), (np.array([0, 4 * h * share]),))
            moves.append((equilibrium(s - at), kick.then(equilibrium(at - end))))
            middles.append(float(langevin.sigma(middle)))
        clock = BrownianClock([*times.sigma, *middles])

        def step(state: State, i: int, predict: Predict, noise: Noise) -> State:
            (before, after), (start, end) = moves[i], times.sigma[i : i + 2]
            z1 = clock(noise, start, middles[i]).to(state.x.dtype)
            x = before(state.x, z=z1)
            q = predict(x, start)
            z2 = clock(noise, middles[i], end).to(state.x.dtype)
            return State(after(x, (q,), z2))

        return _finished(times, [step] * len(moves), 1, times.sigma)


def flow(process: Langevin, state: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """Probability flow du/ds, s running from data to noise: state (B, 2, ...), x0 prediction (B, ...), t (B,)."""
    x, w = state.unbind(1)
    on_x, on_w, on_x0 = (per_sample(c.to(x0.dtype), x0) for c in process.score(t))
    score = on_x * x + on_w * w + on_x0 * x0
    return torch.stack([w, -x - 2 * w - 2 * score], 1)


@dataclass(frozen=True, config=STRICT)
class LangevinRk45(Rk45):
    """Dormand-Prince 5(4) on the probability flow in ln t."""

    state_parts: ClassVar[int] = 2

    def prepare(self, grid: Grid, process: Process) -> Plan:
        times = _times(grid, process)
        langevin, ends = times.process, (math.log(times.t[0]), math.log(times.t[-1]))

        def solve(state: State, i: int, predict: Predict, noise: Noise) -> State:
            def slope(y: Tensor, place: Tensor) -> Tensor:
                t = place.exp()
                speed = per_sample((langevin.rate(t) * t).to(y.dtype), y)
                return speed * flow(langevin, y, predict(y, langevin.sigma(t)), t)

            return State(self.solve(state.x, *ends, slope))

        return _finished(times, [solve], 5, (times.sigma[0], times.sigma[-1]))
