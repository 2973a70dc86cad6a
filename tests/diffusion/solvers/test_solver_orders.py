"""Errors and orders on the 2-D mixture, against RK4 in ln sigma."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from solver_cases import VP, exact, mixture, starts
from torch import Tensor

from gentool.diffusion.grids import Grid, make_grid
from gentool.diffusion.solvers.core import State, build
from gentool.diffusion.solvers.integrate import integrate
from gentool.noise import Noise

KEEP = {"final_order": "keep"}
LOW = {"final_order": "lower"}

# solver, options, calls at N = 4, RMSE at N = 4, 8, 16, 32 on t 1 -> 1e-3: uniform log-SNR, quadratic t;
# order between N = 64 and 128 on t 0.4151 -> 0.0136; the same with an exact history
TABLE = [
    ("euler", {}, 4, "3.2e-1 1.6e-1 7.5e-2 3.6e-2", "2.0e-1 9.4e-2 4.1e-2 2.0e-2", 1, None),
    ("heun", {}, 8, "9.8e-2 3.6e-2 5.5e-3 1.1e-3", "3.6e-2 5.9e-3 2.1e-3 6.6e-4", 2, None),
    ("ddim", {}, 4, "5.3e-1 2.7e-1 1.4e-1 7.0e-2", "3.4e-1 1.7e-1 8.7e-2 4.4e-2", 1, None),
    ("dpm-1", {}, 4, "5.3e-1 2.7e-1 1.4e-1 7.0e-2", "3.4e-1 1.7e-1 8.7e-2 4.4e-2", 1, None),
    ("edm", {}, 8, "1.6 2.6e-1 5.0e-2 1.1e-2", "8.2e-1 1.0e-1 2.1e-2 4.7e-3", 2, None),
    (
        "deis-rhork",
        {"tableau": "kutta3"},
        12,
        "1.6e-1 2.5e-2 3.1e-3 3.9e-4",
        "8.0e-2 3.4e-3 8.1e-4 1.2e-4",
        3,
        None,
    ),
    (
        "deis-rhork",
        {"tableau": "rk4"},
        16,
        "2.5e-1 1.8e-2 1.1e-3 6.2e-5",
        "1.4e-1 7.0e-3 4.1e-4 2.4e-5",
        4,
        None,
    ),
    ("dpm-2", {}, 8, "6.8e-1 1.2e-1 2.4e-2 5.4e-3", "2.5e-1 4.4e-2 1.0e-2 2.4e-3", 2, None),
    ("dpm-3", {}, 12, "1.6e-1 2.0e-2 9.3e-4 1.1e-4", "3.5e-2 2.6e-3 2.6e-4 3.9e-5", 3, None),
    ("dpmpp-2s", {}, 8, "2.0e-1 6.9e-2 2.0e-2 5.6e-3", "1.1e-1 3.3e-2 8.8e-3 2.3e-3", 2, None),
    ("dpmpp-2m", KEEP, 4, "2.3e-1 9.0e-2 2.7e-2 6.4e-3", "2.2e-1 1.1e-1 2.4e-2 5.1e-3", 2, 2),
    ("dpmpp-2m", LOW, 4, "3.2e-1 7.2e-2 2.7e-2 6.4e-3", "2.0e-1 4.9e-2 1.4e-2 4.0e-3", 2, None),
    ("dpmpp-3m", KEEP, 4, "5.8e-1 1.3e-1 7.6e-3 1.8e-3", "6.0e-1 2.9e-1 2.4e-2 1.3e-3", 2, 2),
    ("dpmpp-3m-exact", KEEP, 4, "7.1e-1 1.2e-1 9.2e-3 1.9e-3", "6.8e-1 5.3e-1 4.3e-2 3.6e-3", 2, 3),
    ("dpm-2m", KEEP, 4, "2.8e-1 7.3e-2 2.4e-2 7.0e-3", "8.2e-2 2.3e-2 8.9e-3 2.8e-3", 2, None),
    ("deis-tab", {"order": 2}, 4, "4.0e-1 1.5e-1 5.0e-2 1.5e-2", "2.1e-1 6.9e-2 2.1e-2 6.1e-3", 2, 2),
    ("deis-tab", {"order": 3}, 4, "3.1e-1 8.8e-2 2.2e-2 4.3e-3", "1.6e-1 3.7e-2 7.7e-3 1.3e-3", 2, 3),
    ("deis-tab", {"order": 4}, 4, "3.1e-1 5.7e-2 1.3e-2 2.3e-3", "1.5e-1 2.7e-2 3.8e-3 4.6e-4", 2, 4),
    ("deis-rhoab", {"order": 3}, 4, "5.0e-1 1.9e-1 5.3e-2 1.1e-2", "2.7e-1 8.3e-2 2.0e-2 3.9e-3", 2.29, None),
    ("lms", {"order": 4}, 4, "5.0e-1 1.8e-1 4.6e-2 7.2e-3", "2.7e-1 7.9e-2 1.7e-2 2.3e-3", 2, 4),
    ("deis-logrho", {"order": 3}, 4, "2.7e-1 4.6e-2 1.1e-2 2.4e-3", "1.0e-1 4.2e-2 8.9e-3 1.4e-3", 2, 3),
    ("ipndm", {"order": 2}, 4, "2.8e-1 7.3e-2 2.4e-2 7.0e-3", "9.8e-2 2.9e-2 8.9e-3 2.6e-3", 2, None),
    ("ipndm", {"order": 4}, 4, "1.9e-1 5.2e-2 1.2e-2 3.2e-3", "1.2e-1 1.8e-2 5.2e-3 1.4e-3", 2, None),
    (
        "pndm",
        {"start": "s", "order": 2},
        5,
        "2.9e-1 7.3e-2 2.4e-2 7.0e-3",
        "1.2e-1 2.9e-2 8.8e-3 2.6e-3",
        2,
        None,
    ),
    ("pndm", {"start": "f"}, 13, "1.0 5.6e-2 1.2e-2 3.2e-3", "8.1e-1 3.8e-2 5.8e-3 1.4e-3", 2, None),
    ("unipc", {"order": 1, **KEEP}, 4, "5.1e-1 2.0e-1 6.1e-2 1.7e-2", "2.9e-1 9.4e-2 2.7e-2 7.3e-3", 2, None),
    ("unipc", {"order": 2, **KEEP}, 4, "2.2e-1 9.6e-2 1.3e-2 2.0e-3", "3.1e-1 1.2e-1 2.0e-2 2.4e-3", 3, 3),
    ("unipc", {"order": 3, **KEEP}, 4, "7.4e-1 5.9e-2 9.3e-3 1.1e-3", "8.3e-1 6.2e-1 4.6e-2 2.3e-3", 3.34, 4),
    (
        "unipc",
        {"order": 3, **LOW},
        4,
        "3.0e-1 2.2e-1 1.3e-2 1.1e-3",
        "1.6e-1 1.1e-1 2.0e-2 6.0e-4",
        2.1,
        None,
    ),
    ("ttm2", {}, 12, "3.5e-1 1.2e-1 3.6e-2 1.0e-2", "1.8e-1 5.1e-2 1.5e-2 4.2e-3", 2, None),
    ("plms-hb", {"order": 1}, 4, "6.6e-1 3.8e-1 2.0e-1 1.0e-1", "4.6e-1 2.5e-1 1.3e-1 6.5e-2", 1, None),
    ("plms-hb", {"order": 2}, 4, "4.2e-1 1.8e-1 8.2e-2 3.8e-2", "2.2e-1 1.0e-1 4.8e-2 2.3e-2", 1, None),
    ("ghvb", {"order": 1.8}, 4, "3.2e-1 9.5e-2 3.1e-2 9.3e-3", "1.3e-1 4.0e-2 1.2e-2 3.5e-3", 2, None),
    ("ghvb", {"order": 2.8}, 4, "2.1e-1 3.3e-2 1.0e-2 2.8e-3", "6.0e-2 9.2e-3 4.2e-3 1.2e-3", 2, None),
    ("ghvb", {"order": 3.8}, 4, "1.9e-1 5.0e-2 1.2e-2 3.2e-3", "1.1e-1 1.7e-2 5.2e-3 1.4e-3", 2, None),
]
NAMES = [f"{name}-{'-'.join(str(value) for value in options.values())}" for name, options, *_ in TABLE]


def runge_kutta(x: Tensor, high: float, low: float, nodes: int, refine: int) -> list[Tensor]:
    """States at `nodes + 1` levels uniform in lam, by classical RK4 on dx/dlam = x0 - x."""
    h = float(torch.tensor(high / low, dtype=torch.float64).log()) / (nodes * refine)

    def slope(y: Tensor, lam: float) -> Tensor:
        return (
            mixture(y, torch.full((len(y),), high, dtype=torch.float64) * torch.tensor(-lam).double().exp())
            - y
        )

    states = [x]
    for n in range(nodes * refine):
        k1 = slope(x, n * h)
        k2 = slope(x + h / 2 * k1, (n + 0.5) * h)
        k3 = slope(x + h / 2 * k2, (n + 0.5) * h)
        k4 = slope(x + h * k3, (n + 1) * h)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        if (n + 1) % refine == 0:
            states.append(x)
    return states


def rmse(x: Tensor, y: Tensor) -> float:
    return float((x - y).square().sum(1).mean().sqrt())


@cache
def whole_range() -> Tensor:
    vp = VP()
    end = runge_kutta(starts(vp), vp.sigma_max, vp.sigma_min, 1, 2500)[-1]
    return end * vp.alpha(torch.tensor(vp.t_min, dtype=torch.float64))


@cache
def smooth_range() -> tuple[VP, list[Tensor]]:
    """The exact flow through 129 levels between t = 0.4151 and 0.0136, from a point of the flow from t =
    1."""
    vp = VP()
    high, low = vp.sigma(torch.tensor([0.4151, 0.0136], dtype=torch.float64)).tolist()
    begin = runge_kutta(starts(vp), vp.sigma_max, high, 1, 400)[-1]
    return vp, runge_kutta(begin, high, low, 128, 8)


@pytest.mark.parametrize("row", TABLE, ids=NAMES)
def test_errors_and_calls_match_the_table(row: tuple) -> None:
    name, options, calls, *columns = row
    vp = VP()
    alpha = vp.alpha(torch.tensor(vp.t_min, dtype=torch.float64))
    for grid, column in zip(("log-snr", "power-t"), columns):
        for steps, want in zip((4, 8, 16, 32), column.split()):
            result = integrate(
                exact(mixture), vp, build(name, options), make_grid(grid, steps, vp), starts(vp)
            )
            assert rmse(result.x * alpha, whole_range()) == pytest.approx(float(want), rel=0.052), (
                grid,
                steps,
            )
            if steps == 4:
                assert result.nfe == calls


def smooth_grid(steps: int) -> Grid:
    vp = VP()
    high, low = vp.sigma(torch.tensor([0.4151, 0.0136], dtype=torch.float64)).tolist()
    return make_grid("log-snr", steps, vp, sigma_max=high, sigma_min=low)


def order_of(error: dict[int, float]) -> float:
    return float(torch.tensor(error[64] / error[128]).log2())


@pytest.mark.parametrize("row", TABLE, ids=NAMES)
def test_order_with_the_default_start(row: tuple) -> None:
    name, options, *_, order, _ = row
    vp, flow = smooth_range()
    error = {}
    for steps in (64, 128):
        x = integrate(exact(mixture), vp, build(name, options), smooth_grid(steps), flow[0]).x
        error[steps] = rmse(x, flow[-1])
    assert abs(order_of(error) - order) <= 0.2


WITH_HISTORY = [row for row in TABLE if row[-1] is not None]


@pytest.mark.parametrize("row", WITH_HISTORY, ids=[f"{row[0]}-{row[-1]}" for row in WITH_HISTORY])
def test_order_with_an_exact_history(row: tuple) -> None:
    """The order-1 first step costs O(h^2), which hides orders above 2: start with exact past predictions."""
    name, options, *_, order = row
    vp, flow = smooth_range()
    error = {}
    for steps in (64, 128):
        grid = smooth_grid(steps)
        solver = build(name, options)
        plan, predict, begin = solver.prepare(grid, vp), exact(mixture), 3
        nodes = [flow[i * 128 // steps] for i in range(begin + 1)]
        x0 = [predict(x, s) for x, s in zip(nodes, grid.sigma.tolist())]
        past = (
            x0
            if name.startswith(("dpmpp", "unipc"))
            else [(x - d) / s for x, d, s in zip(nodes, x0, grid.sigma.tolist())]
        )
        history = tuple(past[:begin][::-1])
        state = State(nodes[begin], (nodes[begin - 1], *history) if name == "unipc" else history)
        for i in range(begin, steps):
            state = plan.step(state, i, predict, Noise(0, range(64), (2,)))
        error[steps] = rmse(state.x, flow[-1])
    assert abs(order_of(error) - order) <= 0.2


@pytest.mark.parametrize(
    "tableau", ["midpoint2", "heun2", "kutta3", "heun3", "ralston3", "ssprk3", "vdh3", "rk4"]
)
def test_runge_kutta_tableaux_have_their_order(tableau: str) -> None:
    vp, flow = smooth_range()
    solver = build("deis-rhork", {"tableau": tableau})
    plan = solver.prepare(smooth_grid(64), vp)
    error = {
        steps: rmse(integrate(exact(mixture), vp, solver, smooth_grid(steps), flow[0]).x, flow[-1])
        for steps in (64, 128)
    }
    assert plan.orders == (int(tableau[-1]),) * 64
    assert abs(order_of(error) - plan.orders[0]) <= 0.2


@pytest.mark.parametrize("alpha", [0.5, 2 / 3, 1.0])
def test_the_second_call_of_edm_may_lie_anywhere(alpha: float) -> None:
    vp, flow = smooth_range()
    solver = build("edm", {"alpha": alpha})
    error = {
        steps: rmse(integrate(exact(mixture), vp, solver, smooth_grid(steps), flow[0]).x, flow[-1])
        for steps in (64, 128)
    }
    assert abs(order_of(error) - 2) <= 0.2


@pytest.mark.parametrize(("name", "order"), [("dpmpp-3s", 3), ("dpm-fast", 3)])
def test_third_order_single_step_solvers(name: str, order: int) -> None:
    vp, flow = smooth_range()
    calls = {64: 3 * 20 + 1, 128: 3 * 40 + 1} if name == "dpm-fast" else {64: 64, 128: 128}
    error = {
        steps: rmse(integrate(exact(mixture), vp, name, smooth_grid(n), flow[0]).x, flow[-1])
        for steps, n in calls.items()
    }
    if name == "dpm-fast":  # one block of order 1 among blocks of order 3 limits the global order to 2
        order = 2
    assert abs(order_of(error) - order) <= 0.25
