"""The one loop that all solvers share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor

from gentool.diffusion.gradients.rollout import Replay, rollout
from gentool.diffusion.grids import Grid
from gentool.diffusion.process import Process
from gentool.diffusion.solvers.core import Plan, Predict, Solver, State, Wrapped, build
from gentool.diffusion.solvers.time_shift import TimeShift
from gentool.errors import GentoolError, UserError
from gentool.noise import Noise

Callback = Callable[[int, float, Tensor, Tensor], None]
"""(i, sigma, x, x0) at the start of step i: the state and the prediction made there, or, in a last step without a
network call, the data it lands on."""


class CountingPredict(Predict, Protocol):
    """What `gentool.diffusion.predictor.Predictor` offers beside the call."""

    nfe: float

    def memory(self) -> Any: ...

    def restore(self, memory: Any) -> None: ...


@dataclass(frozen=True)
class Result:
    """x: (B, ...), the canonical state at the grid's last level, x0 with `denoise`. nfe: network calls per sample.

    manifest: solver, options, grid, steps, orders, sigma_max, sigma_min, final, first, denoise, nfe, seed,
    notes: what a samples file should carry.
    """

    x: Tensor
    nfe: float
    steps: int
    manifest: dict[str, Any]


def integrate(
    predict: CountingPredict,
    process: Process,
    solver: Solver | str,
    grid: Grid,
    x: Tensor,
    noise: Noise | None = None,
    *,
    first: Literal["afs"] | None = None,
    denoise: bool = False,
    reverse: bool = False,
    time_shift: TimeShift | None = None,
    callback: Callback | None = None,
    replay: Replay | None = None,
) -> Result:
    """Carry x from the grid's first level to its last.

    Args:
        predict: x0 from (canonical state, sigma); counts its calls.
        solver: a solver, or a name for one with default options.
        x: (B, ...) canonical state at the first level, prior_std * N(0, 1) to sample; its dtype is the
            arithmetic's (float64 costs little beside a network). Gradients flow through x and through what
            `predict` closes over.
        noise: for stochastic solvers.
        first: `afs` answers the first call analytically, eps = x/sqrt(1 + sigma^2), and saves it (GENIE's
            analytical first step).
        denoise: return x0 at the last level, one call more.
        reverse: encode, from data to noise: the grid backwards, with a deterministic solver.
        time_shift: see `TimeShift`.
        callback: called at the start of every step.
        replay: how gradients go back through the steps without keeping their graphs (docs/gradients.md); None keeps
            them. The same gradients, to rounding.

    Raises:
        UserError: options that do not go together.
        GentoolError: a state that is not finite, with the step, time and sample where it first was.
    """
    if isinstance(solver, str):
        name, solver = solver, build(solver, state_parts=process.state_parts)
    else:
        name = type(solver).__name__
    _refuse(
        solver, grid, noise, x, first=first, denoise=denoise, reverse=reverse, watched=callback or time_shift
    )
    if replay is not None and solver.adaptive:
        raise UserError(
            f"{name} chooses its own steps, all inside one: there is no exact gradient in bounded memory; take a "
            "solver with a fixed grid"
        )
    if replay is not None and callback is not None:
        raise ValueError("a callback would be called again by every replayed step: give one or the other")
    if solver.state_parts != process.state_parts:
        raise ValueError(
            f"{name} steps {solver.state_parts}-part states, {process.name}'s have {process.state_parts}"
        )
    if process.state_parts > 1 and (first is not None or time_shift is not None):
        raise UserError(f"afs and time_shift are for states of data alone; {process.name}'s have a velocity")
    path = grid.reversed() if reverse else grid
    plan = solver.prepare(path, process)
    if time_shift is not None:
        plan = time_shift.around(plan, process)
    before, memory = predict.nfe, predict.memory()
    out = _run(plan, process, predict, x, noise, first, denoise, callback, replay=replay)
    nfe = predict.nfe - before
    # the loop's only synchronisation; a sum of finite numbers may overflow, and costs a tenth of a look at each
    if not math.isfinite(float(out.detach().sum())) and not bool(torch.isfinite(out).all()):
        predict.restore(memory)  # steps are pure: run again, looking at each
        _report(plan, process, predict, x, noise, first, out)
    manifest = {
        "solver": name,
        "options": asdict(solver) if is_dataclass(solver) else {},
        "grid": grid.name,
        "steps": len(plan.orders),
        "orders": list(plan.orders),
        "sigma_max": float(grid.sigma[0]),
        "sigma_min": float(grid.sigma[grid.sigma > 0].min()),
        "final": grid.final,
        "first": first,
        "denoise": denoise,
        "reverse": reverse,
        "time_shift": asdict(time_shift) if time_shift is not None else None,
        "nfe": nfe,
        "seed": noise.seed if noise is not None else None,
        "notes": [*grid.notes, *plan.notes],
    }
    return Result(out, nfe, len(plan.orders), manifest)


def _refuse(
    solver: Solver,
    grid: Grid,
    noise: Noise | None,
    x: Tensor,
    *,
    first: str | None,
    denoise: bool,
    reverse: bool,
    watched: object,
) -> None:
    kind = type(solver).__name__
    if reverse and solver.stochastic:
        raise UserError(f"{kind} draws noise with these options: only deterministic solvers encode")
    if reverse and (first is not None or denoise):
        raise UserError("encoding takes neither an analytic first step nor a denoising step")
    if reverse and grid.final == "zero":
        raise UserError("encoding starts at a positive noise level: use a grid with final t-min")
    if denoise and grid.final == "zero":
        raise UserError(
            "the grid ends at sigma = 0, where the state is x0 already: denoise has nothing to do"
        )
    if solver.adaptive and (first is not None or watched is not None):
        raise UserError(f"{kind} chooses its own steps: no step callback, time shift or analytic first step")
    if noise is None and solver.stochastic:
        raise ValueError(f"{kind} draws noise: give a Noise")
    if noise is not None and len(noise.indices) != x.shape[0]:
        raise ValueError(f"noise for {len(noise.indices)} samples, but a batch of {x.shape[0]}")


def _run(
    plan: Plan,
    process: Process,
    predict: CountingPredict,
    x: Tensor,
    noise: Noise | None,
    first: str | None,
    denoise: bool,
    callback: Callback | None,
    check: Callable[[int, Tensor], None] | None = None,
    replay: Replay | None = None,
) -> Tensor:
    def step(carried: tuple[State, Any], i: int) -> tuple[State, Any]:
        """The solver's step as a pure function: what guidance remembers is a part of the state."""
        state, memory = carried
        predict.restore(memory)
        call = AnalyticFirst(predict) if first == "afs" and i == 0 else predict
        seen: list[Tensor] = []
        start = state.x
        # a solver that is given no noise never touches it: _refuse saw to that
        state = plan.step(state, i, Recorded(call, seen) if callback else call, cast(Noise, noise))
        if callback:
            callback(i, plan.sigmas[i], start, seen[0] if seen else process.data_part(state.x))
        if check:
            check(i, state.x)
        return state, predict.memory()

    state, memory = rollout(step, len(plan.orders), (State(x), predict.memory()), replay)
    predict.restore(memory)
    return predict(state.x, plan.sigmas[-1]) if denoise else state.x


class AnalyticFirst(Wrapped):
    """Answers one call as if the data were N(0, 1): x0 = x - sigma x/sqrt(1 + sigma^2), a slope of 0 (GENIE)."""

    asked = False

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        if self.asked:
            return self.predict(x, sigma)
        self.asked = True
        level = float(sigma)
        scale = math.hypot(1.0, level)
        return x / (scale * (scale + level))

    def derivative(self, x: Tensor, sigma: Tensor | float, *, exact: bool) -> tuple[Tensor, Tensor]:
        if self.asked:
            return self.predict.derivative(x, sigma, exact=exact)
        return self(x, sigma), torch.zeros_like(x)

    def with_variance(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        if self.asked:
            return self.predict.with_variance(x, sigma)
        return self(x, sigma), torch.ones_like(x)  # the large variance: that of data N(0, 1)


class Recorded(Wrapped):
    """Keeps what was predicted."""

    def __init__(self, predict: Predict, seen: list[Tensor]) -> None:
        super().__init__(predict)
        self.seen = seen

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        self.seen.append(self.predict(x, sigma))
        return self.seen[-1]

    def derivative(self, x: Tensor, sigma: Tensor | float, *, exact: bool) -> tuple[Tensor, Tensor]:
        x0, slope = self.predict.derivative(x, sigma, exact=exact)
        self.seen.append(x0)
        return x0, slope

    def with_variance(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        x0, v = self.predict.with_variance(x, sigma)
        self.seen.append(x0)
        return x0, v


def _report(
    plan: Plan,
    process: Process,
    predict: CountingPredict,
    x: Tensor,
    noise: Noise | None,
    first: str | None,
    out: Tensor,
) -> None:
    """Run again, stop at the first state that is not finite, and say where."""

    def check(i: int, y: Tensor) -> None:
        bad = (~torch.isfinite(y)).flatten(1).any(1)
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            sample = noise.indices[row] if noise is not None else row
            sigma = plan.sigmas[i]
            t = float(process.t_of_sigma(torch.tensor(sigma, dtype=torch.float64)))
            raise GentoolError(
                f"the state is not finite after step {i + 1} of {len(plan.orders)} (t = {t:.6g}, "
                f"sigma = {sigma:.6g}), first in sample {sample}: the network's output there is not finite, "
                "or the solver diverged"
            )

    with torch.no_grad():
        _run(plan, process, predict, x, noise, first, False, None, check)
    row = int((~torch.isfinite(out)).flatten(1).any(1).nonzero()[0])
    raise GentoolError(f"the denoised state is not finite (sample {noise.indices[row] if noise else row})")
