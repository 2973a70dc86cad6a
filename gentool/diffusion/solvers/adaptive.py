"""Solvers that choose their steps, each sample its own: a sample never depends on its batch.

Only the ends of the grid count. Sources: Dormand and Prince (1980); Hairer, Norsett, Wanner, "Solving
ODEs I", II.4 (error norm, first step); DPM-Solver (2206.00927), DPM-Solver-12 and -23.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from gentool.diffusion.dormand_prince import ERROR, NODES, STAGES
from gentool.diffusion.grids import Grid
from gentool.diffusion.process import Process
from gentool.diffusion.solvers.core import STRICT, Plan, Predict, Solver, State
from gentool.errors import GentoolError
from gentool.noise import Noise

MAX_TRIALS = 10_000


class Trial(NamedTuple):
    """A step tried by every sample: the new state, its error in units of the tolerance (B,), and what the
    next trial of the samples that accept should carry (tensors (B, ...))."""

    x: Tensor
    error: Tensor
    carry: tuple[Tensor, ...]


Slope = Callable[[Tensor, Tensor], Tensor]
"""(x (B, ...), lam (B,)) -> dx/dlam (B, ...)."""
Try = Callable[[Tensor, Tensor, Tensor, tuple[Tensor, ...]], Trial]


def march(
    attempt: Try,
    x: Tensor,
    start: float,
    end: float,
    h: Tensor,
    carry: tuple[Tensor, ...],
    factor: Callable[[Tensor], Tensor],
    smallest: float = 0.0,
) -> Tensor:
    """Go from lam = start to end; `attempt(x, lam, h, carry)` with lam, h (B,) float64, h signed.

    h: (B,) sizes of the first steps. factor: error (B,) -> change of the size for the next trial. smallest: a sample
    that would need a shorter step is given up, its x NaN, and the others go on.
    """
    lam, lost = torch.full_like(h, start), torch.zeros_like(h, dtype=torch.bool)
    sign = math.copysign(1.0, end - start)
    for _ in range(MAX_TRIALS):
        left = (end - lam).abs()
        h = torch.minimum(h, left)
        trial = attempt(x, lam, sign * h, carry)
        finite = trial.error.isfinite()
        if not bool(finite.all()):
            return torch.where(finite.view(_column(x)), x, torch.nan)  # the driver names the sample
        accept = trial.error <= 1
        wide = accept.view(_column(x))
        x = torch.where(wide, trial.x, x)
        carry = tuple(torch.where(wide, new, old) for new, old in zip(trial.carry, carry))
        lam = torch.where(accept, torch.where(h == left, torch.full_like(lam, end), lam + sign * h), lam)
        if bool((lam == end).all()):
            return torch.where(lost.view(_column(x)), torch.nan, x)
        h = h * factor(trial.error.clamp(min=1e-10))
        if smallest:
            stuck = (h < smallest) & ((end - lam).abs() > smallest)
            lam, lost = torch.where(stuck, end, lam), lost | stuck
    raise GentoolError(f"no end after {MAX_TRIALS} adaptive steps; loosen rtol and atol")


def _column(x: Tensor) -> tuple[int, ...]:
    return (-1, *[1] * (x.dim() - 1))


def _rms(x: Tensor) -> Tensor:
    """Root mean square over features, (B,) float64, without a gradient: step sizes are not differentiated."""
    return x.detach().double().square().flatten(1).mean(1).sqrt()


def _adaptive_plan(grid: Grid, order: int, solve: Callable[[Tensor, float, float, Predict], Tensor]) -> Plan:
    """One step from the first level to the last positive one, and to x = x0 if the grid ends at sigma = 0."""
    sigma = grid.sigma.tolist()
    positive = [s for s in sigma if s > 0]
    start, end = -math.log(positive[0]), -math.log(positive[-1])

    def step(state: State, i: int, predict: Predict, noise: Noise) -> State:
        x = solve(state.x, start, end, predict) if start != end else state.x
        return State(predict(x, positive[-1]) if sigma[-1] == 0 else x)

    return Plan(step, (sigma[0], sigma[-1]), (order,))


@dataclass(frozen=True, config=STRICT)
class Rk45(Solver):
    """Dormand-Prince 5(4) on dx/dlam = x0 - x.

    atol, rtol: a step's error is the root mean square over features of e/(atol + rtol max(|x|, |x'|)); up to
        1 passes.
    """

    adaptive: ClassVar[bool] = True
    atol: Annotated[float, Field(gt=0)] = 1e-5
    rtol: Annotated[float, Field(gt=0)] = 1e-5

    def prepare(self, grid: Grid, process: Process) -> Plan:
        def solve(x: Tensor, start: float, end: float, predict: Predict) -> Tensor:
            return self.solve(x, start, end, lambda y, lam: predict(y, (-lam).exp()) - y)

        return _adaptive_plan(grid, 5, solve)

    def solve(self, x: Tensor, start: float, end: float, slope: Slope, *, smallest: float = 0.0) -> Tensor:
        """dx/dlam = slope(x, lam (B,)) from lam = start to end; lam stands for any variable.

        smallest: as of `march`; the slope must be finite.
        """

        def attempt(y: Tensor, lam: Tensor, h: Tensor, carry: tuple[Tensor, ...]) -> Trial:
            wide = h.to(y.dtype).view(_column(y))
            k, new = [carry[0]], y
            for c, row in zip(NODES[1:], STAGES[1:]):
                new = y + wide * _combine(row, k)
                k.append(slope(new, lam + c * h))
            return Trial(new, self._error(wide * _combine(ERROR, k), y, new), (k[-1],))

        lam = torch.full((x.shape[0],), start, dtype=torch.float64, device=x.device)
        first = slope(x, lam)
        h = self._first_step(x, first, slope, lam, math.copysign(1.0, end - start))
        return march(attempt, x, start, end, h, (first,), lambda e: (0.9 * e**-0.2).clamp(0.2, 10), smallest)

    def _error(self, e: Tensor, x: Tensor, new: Tensor) -> Tensor:
        return _rms(e / (self.atol + self.rtol * torch.maximum(x.abs(), new.abs())))

    def _first_step(self, x: Tensor, f: Tensor, slope: Slope, lam: Tensor, sign: float) -> Tensor:
        """Hairer's: the size (B,) at which an explicit Euler step changes by 1 % of the tolerance's scale."""
        d0, d1 = self._error(x, x, x), self._error(f, x, x)
        h0 = (0.01 * d0 / d1.clamp(min=1e-10)).clamp(1e-6, 1.0)
        moved = x + sign * h0.to(x.dtype).view(_column(x)) * f
        d2 = self._error(slope(moved, lam + sign * h0) - f, x, x) / h0
        h1 = (0.01 / torch.maximum(d1, d2).clamp(min=1e-10)) ** (1 / 5)
        return torch.minimum(100 * h0, h1)


def _combine(weights: tuple[float, ...], k: list[Tensor]) -> Tensor:
    out = k[0] * weights[0]
    for w, one in zip(weights[1:], k[1:]):
        if w:
            out = torch.add(out, one, alpha=w)
    return out


@dataclass(frozen=True, config=STRICT)
class DpmAdaptive(Solver):
    """DPM-Solver-12 (order 2) and -23 (order 3): two orders share their calls, their difference is the error.

    h_init: first step in lam. atol, rtol: tolerance of x_t. theta: safety factor of the step size.
    """

    adaptive: ClassVar[bool] = True
    order: Literal[2, 3] = 3
    h_init: Annotated[float, Field(gt=0)] = 0.05
    atol: Annotated[float, Field(gt=0)] = 0.0078
    rtol: Annotated[float, Field(gt=0)] = 0.05
    theta: Annotated[float, Field(gt=0, lt=1)] = 0.9

    def prepare(self, grid: Grid, process: Process) -> Plan:
        def solve(x: Tensor, start: float, end: float, predict: Predict) -> Tensor:
            def signal(lam: Tensor) -> Tensor:
                alpha = process.alpha(process.t_of_sigma((-lam).exp().cpu()))
                return alpha.to(x.device, x.dtype).view(_column(x))

            def attempt(y: Tensor, lam: Tensor, h: Tensor, carry: tuple[Tensor, ...]) -> Trial:
                low, high = _pair(predict, self.order, y, lam, h)
                here = signal(lam + h)
                size = torch.maximum((here * low).abs(), carry[0].abs())
                error = _rms(here * (high - low) / (self.rtol * size).clamp(min=self.atol))
                return Trial(high, error, (here * low,))

            h = torch.full((x.shape[0],), self.h_init, dtype=torch.float64, device=x.device)
            before = signal(torch.full_like(h, start)) * x
            return march(attempt, x, start, end, h, (before,), lambda e: self.theta * e ** (-1 / self.order))

        return _adaptive_plan(grid, self.order, solve)


def _pair(predict: Predict, order: int, x: Tensor, lam: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """DPM-Solver steps of orders (1, 2) or (2, 3) with per-sample lam and h, (B,)."""

    def wide(value: Tensor) -> Tensor:
        return value.to(x.dtype).view(_column(x))

    def eps(y: Tensor, at: Tensor) -> Tensor:
        sigma = (-at).exp()
        return (y - predict(y, sigma)) / wide(sigma)

    def bend(size: Tensor, at: Tensor) -> Tensor:
        """-sigma h phi_2(h), the coefficient of h eps'; 0 for a step of size 0."""
        return wide(torch.where(size == 0, 0.0, -(-at).exp() * (torch.expm1(size) / size - 1)))

    def move(size: Tensor) -> Tensor:
        return wide((-lam).exp() * torch.expm1(-size))  # sigma(lam + size) - sigma(lam)

    here = eps(x, lam)
    if order == 2:
        middle = eps(x + move(h / 2) * here, lam + h / 2)
        return x + move(h) * here, x + move(h) * middle
    d1 = eps(x + move(h / 3) * here, lam + h / 3) - here
    second = x + move(2 * h / 3) * here + 2 * bend(2 * h / 3, lam + 2 * h / 3) * d1
    d2 = eps(second, lam + 2 * h / 3) - here
    low = x + move(h) * (here + 1.5 * d1)
    return low, x + move(h) * here + 1.5 * bend(h, lam + h) * d2
