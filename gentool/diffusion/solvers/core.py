"""What every solver is made of: states, linear rows in float64, plans.

In the canonical state x = x_t / alpha nearly every solver is linear in the state and in the predictions: a
step is a few `Row`s whose coefficients are Python floats computed before the loop, so that a step costs a
handful of tensor operations, no synchronisation, and is a pure function of (state, index, predict, noise).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from pydantic import ConfigDict, ValidationError
from torch import Tensor

from gentool.diffusion.grids import Grid
from gentool.diffusion.process import Process
from gentool.diffusion.solvers.catalog import SOLVERS
from gentool.errors import UserError
from gentool.noise import Noise
from gentool.registry import resolve

Prediction = Literal["eps", "x0"]
FinalOrder = Literal["auto", "keep", "lower", "one"]

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""Of the pydantic dataclasses that solvers are: options of a recipe are checked against their fields."""


class Predict(Protocol):
    """`gentool.diffusion.predictor.Predictor`, or a wrapper of one."""

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor: ...

    def derivative(self, x: Tensor, sigma: Tensor | float, *, exact: bool) -> tuple[Tensor, Tensor]: ...

    def with_variance(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]: ...


class Wrapped:
    """A predictor in front of another: what a wrapper does not answer itself goes through."""

    def __init__(self, predict: Predict) -> None:
        self.predict = predict

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return self.predict(x, sigma)

    def derivative(self, x: Tensor, sigma: Tensor | float, *, exact: bool) -> tuple[Tensor, Tensor]:
        return self.predict.derivative(x, sigma, exact=exact)

    def with_variance(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        return self.predict.with_variance(x, sigma)


class State(NamedTuple):
    """x: (B, ...), the canonical state ((B, 2, ...) with a velocity); history: tensors (B, ...) that the next steps
    need."""

    x: Tensor
    history: tuple[Tensor, ...] = ()


Step = Callable[[State, int, Predict, Noise], State]


@dataclass(frozen=True)
class Plan:
    """A solver built for one grid: only the network is missing.

    Attributes:
        step: `step(state, i, predict, noise) -> state`, pure; i = 0 .. steps-1 in order.
        sigmas: (steps + 1) levels: where each step starts, and where the last one ends.
        orders: the order of each step.
        notes: what the user should hear.
    """

    step: Step
    sigmas: tuple[float, ...]
    orders: tuple[int, ...]
    notes: tuple[str, ...] = ()


class Solver(ABC):
    """An update rule with its options: a frozen dataclass whose fields are the options.

    Attributes:
        adaptive: chooses its own steps between the ends of the grid.
        state_parts: of the processes it steps (`Process.state_parts`).
    """

    adaptive: ClassVar[bool] = False
    state_parts: ClassVar[int] = 1

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise with these options."""
        return False

    @abstractmethod
    def prepare(self, grid: Grid, process: Process) -> Plan:
        """Compute the tables for one grid."""


def build(name: str, options: Mapping[str, Any] | None = None, state_parts: int = 1) -> Solver:
    """The solver of this name with options from a recipe, for processes of `state_parts`.

    Raises:
        UserError: unknown solver or option, a value out of range, or a solver that cannot step such states.
    """
    target = SOLVERS.target(name, state_parts)
    info = SOLVERS.get(name)
    info.check_options(options or {})
    try:
        return resolve(target)(**{**info.preset, **(options or {})})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = f"{first['msg'][0].lower()}{first['msg'][1:]}, not {first['input']!r} (solver {name})"
        raise UserError(message, f"sample.options.{key}") from None


# --- coefficients ---


class Row(NamedTuple):
    """x' = a x + sum_j c_j q_j + noise z: q_j this step's predictions in order of evaluation, then older
    ones, newest first; z standard normal."""

    a: float
    c: tuple[float, ...]
    noise: float = 0.0


class Stage(NamedTuple):
    """A row and the level it leads to."""

    sigma: float
    row: Row


@dataclass(frozen=True)
class LinearStep:
    """Start at `sigma` (with `churn` times fresh noise added before), predict there, then at every stage but
    the last, which is the step's result."""

    sigma: float
    stages: tuple[Stage, ...]
    order: int
    churn: float = 0.0


def first_order(prediction: Prediction, sigma_s: float, sigma_t: float) -> Row:
    """The DDIM step, exact where the prediction is constant; at sigma_t = 0 it is x = x0."""
    if prediction == "x0":
        return Row(sigma_t / sigma_s, (1 - sigma_t / sigma_s,))
    return Row(1.0, (sigma_t - sigma_s,))


def phi(k: int, z: float) -> float:
    """phi_k(z) = sum_j z^j / (j + k)!; phi_0 = exp. By its series near 0, where the recursion would
    cancel."""
    if abs(z) < 1:
        return math.fsum(z**j / math.factorial(j + k) for j in range(20))
    value = math.expm1(z) / z
    for j in range(1, k):
        value = (value - 1 / math.factorial(j)) / z
    return value


def exponential(
    prediction: Prediction, sigma_s: float, sigma_t: float, eta: float = 0.0
) -> tuple[float, list[float]]:
    """(A, [P_1, P_2, P_3]) of x_t = A x_s + sum_k P_k h^(k-1) q^(k-1), q^(k) the k-th lam-derivative at s:
    the exponential Taylor step of DPM-Solver and, for x0 and eta > 0, of SDE-DPM-Solver++."""
    h = math.log(sigma_s / sigma_t)
    if prediction == "eps":
        return 1.0, [-sigma_t * h * phi(k, h) for k in (1, 2, 3)]
    h_eta = (1 + eta) * h
    return sigma_t / sigma_s * math.exp(-eta * h), [h_eta * phi(k, -h_eta) for k in (1, 2, 3)]


def step_orders(grid: Grid, order: int, final_order: FinalOrder) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The order of every step of a multistep solver that warms up as 1, 2, .., and notes.

    final_order: `lower` bounds step i of N by N - i, `one` makes the last step order 1, `keep` neither;
    `auto` is `lower` below 15 steps (the rule of DPM-Solver's paper). A step to sigma = 0 always has order 1.
    """
    n = grid.steps
    if final_order == "auto":
        final_order = "lower" if n < 15 else "keep"
    orders = [min(order, i + 1, n - i if final_order == "lower" else order) for i in range(n)]
    if final_order == "one" or grid.sigma[-1] == 0:
        orders[-1] = 1
    notes = (f"order {order} needs {order} steps: reduced to {n}",) if n < order else ()
    return tuple(orders), notes


# --- running linear steps ---


class BrownianClock:
    """Brownian increments along the grid's own parameter: twice the steps of a grid see nearly the same path, finer.

    Finite level i of n sits at place i/n, moved by up to a quarter of a step to the dyadic number there that takes the
    fewest draws to reach: little more than one a step. The last finite level is place 1, so that grids with and
    without the step to sigma = 0 share their path. Increments are used at unit variance, so that any monotone clock
    gives the solver's exact law; the clock only decides which runs share their noise.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        finite = sorted({s for s in sigmas if s > 0}, reverse=True)
        n = max(len(finite) - 1, 1)
        inner = [simplest((i - 0.25) / n, (i + 0.25) / n) for i in range(1, n)]
        self._places = dict(zip(finite, (0.0, *inner, 1.0)))

    def __call__(self, noise: Noise, sigma_s: float, sigma_t: float) -> Tensor:
        return noise.increment("brownian", self._places[sigma_s], self._places[sigma_t], depth=40)


def simplest(low: float, high: float) -> float:
    """The dyadic number k/2^d in [low, high], within [0, 1], of the smallest d."""
    cells = 1
    while math.ceil(low * cells) > high * cells:
        cells *= 2
    return math.ceil(low * cells) / cells


def apply(row: Row, x: Tensor, predictions: Sequence[Tensor]) -> Tensor:
    """a x + sum_j c_j q_j, a tensor of its own where the row has predictions: what follows may write into it."""
    out = x if row.a == 1 else x * row.a
    for j, (c, q) in enumerate(zip(row.c, predictions)):
        # In place after the first, as a fresh tensor costs more than the arithmetic on it; not before, as a vmapped
        # prediction has a dimension that x may lack.
        out = out.add_(q, alpha=c) if j else torch.add(out, q, alpha=c)
    return out


def predicted(prediction: Prediction, predict: Predict, x: Tensor, sigma: float) -> Tensor:
    """x0, or eps = (x - x0)/sigma."""
    x0 = predict(x, sigma)
    return x0 if prediction == "x0" else (x - x0) / sigma


def on_x0(step: LinearStep) -> LinearStep:
    """The same step of one prediction eps = (x - x0)/sigma, written on x0: two passes over the state fewer."""
    (stage,) = step.stages
    a, (c,), noise = stage.row
    c /= step.sigma
    return replace(step, stages=(Stage(stage.sigma, Row(a + c, (-c,), noise)),))


def linear_plan(
    prediction: Prediction, steps: Sequence[LinearStep], keep: int = 0, notes: tuple[str, ...] = ()
) -> Plan:
    """A plan of linear steps; the first predictions of the last `keep` steps are carried as history."""
    if prediction == "eps" and not keep and all(len(one.stages) == 1 for one in steps):
        prediction, steps = "x0", [on_x0(one) for one in steps]
    sigmas = (*(one.sigma for one in steps), steps[-1].stages[-1].sigma)
    noisy = any(stage.row.noise for one in steps for stage in one.stages)
    clock = BrownianClock([*sigmas, *(s.sigma for one in steps for s in one.stages)]) if noisy else None

    def step(state: State, i: int, predict: Predict, noise: Noise) -> State:
        now, x = steps[i], state.x
        if now.churn:
            x = torch.add(x, noise.normal("churn", i).to(x.dtype), alpha=now.churn)
        here = [predicted(prediction, predict, x, now.sigma)]

        def reach(stage: Stage) -> Tensor:
            y = apply(stage.row, x, (*here, *state.history))
            if clock is None or not stage.row.noise:
                return y
            return y.add_(clock(noise, now.sigma, stage.sigma), alpha=stage.row.noise)

        for stage in now.stages[:-1]:
            here.append(predicted(prediction, predict, reach(stage), stage.sigma))
        return State(reach(now.stages[-1]), (here[0], *state.history)[:keep])

    return Plan(step, sigmas, tuple(one.order for one in steps), notes)
