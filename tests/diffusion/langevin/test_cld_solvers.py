"""Solvers of states with a velocity: moments on Gaussian data, orders, limits, and the contract of all solvers."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gentool.diffusion import processes
from gentool.diffusion.config import VpProcess
from gentool.diffusion.grids import make_grid
from gentool.diffusion.langevin.config import LangevinProcess
from gentool.diffusion.langevin.mixture import LangevinMixture
from gentool.diffusion.langevin.process import Langevin
from gentool.diffusion.mixture import GaussianMixture
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.solvers.catalog import SOLVERS
from gentool.diffusion.solvers.core import build
from gentool.diffusion.solvers.integrate import Result, integrate
from gentool.diffusion.solvers.langevin import equilibrium, slope
from gentool.diffusion.solvers.time_shift import TimeShift
from gentool.errors import UserError
from gentool.noise import Noise
from tests.diffusion.langevin.cld_cases import exact_covariance, gaussian, sampled_covariance

PROCESS = Langevin()
TRIAD = LangevinMixture(GaussianMixture.triad(), PROCESS)
NAMES = SOLVERS.fitting(2)
CERTAIN = [name for name in NAMES if not SOLVERS.get(name).stochastic]


def run(
    name: str, steps: int, rows: range = range(8), *, seed: int = 0, grid: str = "", **how: Any
) -> Result:
    levels = make_grid(grid or SOLVERS.get(name).grid, steps, PROCESS, final=how.pop("final", "t-min"))
    noise = Noise(seed, rows, (2, 2), dtype=torch.float64)
    predict = Predictor(TRIAD.denoise, dtype=torch.float64)
    x = how.pop("x", noise.normal("prior"))
    return integrate(predict, PROCESS, name, levels, x, noise, **how)


def test_those_there_are() -> None:
    assert NAMES == ["euler", "heun", "euler-maruyama", "sscs", "rk45"]


@pytest.mark.parametrize(
    ("variance", "steps", "expected"),
    [
        (1.0, 20, (1.2815, 1.1350, 0.9816, 0.9836)),
        (1.0, 100, (1.0377, 1.0225, 1.0010, 0.9971)),
        (0.25, 20, (1.9279, 1.2140, 0.7801, 0.9171)),
        (0.01, 50, (2.9072, 1.1208, 0.3621, 0.7548)),
    ],
)
def test_variance_of_samples_of_gaussian_data(
    variance: float, steps: int, expected: tuple[float, ...]
) -> None:
    """var(x)/c^2 with the paper's last step; Euler-Maruyama, then SSCS, on even and quadratic times. Figures of an
    independent covariance recursion: EM inflates directions of little variance, SSCS shrinks them."""
    data = gaussian(variance**0.5, PROCESS)
    found = [
        float(
            sampled_covariance(
                build(name, state_parts=2), make_grid(grid, steps, PROCESS, final="zero"), data
            )[0, 0]
        )
        for name in ("euler-maruyama", "sscs")
        for grid in ("uniform-t", "quadratic-t")
    ]
    np.testing.assert_allclose(np.array(found) / variance, expected, atol=6e-5)


@pytest.mark.parametrize(("name", "order"), [("euler-maruyama", 1), ("euler", 1), ("sscs", 1), ("heun", 2)])
def test_convergence_order_on_gaussian_data(name: str, order: int) -> None:
    """The covariance at t = 0.3, started from the exact one at t = 0.6."""
    data = gaussian(0.5, PROCESS)

    def error(steps: int) -> float:
        grid = make_grid("uniform-t", steps, PROCESS, t_min=0.3, t_max=0.6)
        found = sampled_covariance(build(name, state_parts=2), grid, data, exact_covariance(data, 0.6))
        return float((found - exact_covariance(data, 0.3)).norm())

    assert math.log2(error(80) / error(160)) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("h", [1e-7, 1e-3, 0.3, 2.0, 15.0])
def test_half_of_the_splitting_leaves_the_equilibrium_alone(h: float) -> None:
    part = equilibrium(h)
    assert part.noise is not None
    np.testing.assert_allclose(part.matrix @ part.matrix.T + part.noise @ part.noise.T, np.eye(2), atol=1e-14)
    half = equilibrium(h / 2)
    assert half.noise is not None
    np.testing.assert_allclose(half.matrix @ half.matrix, part.matrix, atol=1e-14)
    spread = half.matrix @ half.noise @ half.noise.T @ half.matrix.T + half.noise @ half.noise.T
    np.testing.assert_allclose(spread, part.noise @ part.noise.T, atol=1e-14)


@pytest.mark.parametrize("t", [0.01, 0.3, 1.0])
def test_the_parts_of_the_splitting_add_up_to_the_reverse_sde(t: float) -> None:
    h = 1e-6
    exact_part = (equilibrium(h).matrix - np.eye(2)) / h
    whole, share = slope(PROCESS, t, nu=1.0)
    still, still_share = slope(PROCESS, t, nu=0.0)
    score = (whole[1] - [1, 2]) / 4
    kick = np.outer([0, 4], score + [0, 1])
    np.testing.assert_allclose(exact_part + kick, whole, rtol=0, atol=1e-5)
    np.testing.assert_allclose(share, 2 * still_share)  # the SDE has twice the probability flow's score
    np.testing.assert_allclose(whole[1] - [1, 2], 2 * (still[1] - [1, 2]))


def test_sscs_is_exact_where_the_data_are_the_equilibrium() -> None:
    """x and w standard normal from the start: the score is -w at all times, and the kick does nothing."""
    data = gaussian(1.0, Langevin(LangevinProcess(gamma=1.0, numerical_eps=0.0)))
    for steps in (1, 3):
        grid = make_grid("uniform-t", steps, data.process)
        found = sampled_covariance(build("sscs", state_parts=2), grid, data)
        torch.testing.assert_close(found, torch.eye(2, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    rough = sampled_covariance(
        build("euler-maruyama", state_parts=2), make_grid("uniform-t", 20, data.process), data
    )
    assert (rough - torch.eye(2)).abs().max() > 0.05


def test_euler_maruyama_without_noise_is_the_probability_flow() -> None:
    grid = make_grid("uniform-t", 9, PROCESS)
    still = build("euler-maruyama", {"nu": 0.0}, state_parts=2)
    assert still == build("euler", state_parts=2)
    x = Noise(0, range(4), (2, 2), dtype=torch.float64).normal("prior")
    ends = [
        integrate(Predictor(TRIAD.denoise, dtype=torch.float64), PROCESS, solver, grid, x).x
        for solver in (still, "euler")
    ]
    assert torch.equal(*ends)


def test_deterministic_solvers_agree_on_where_the_flow_ends() -> None:
    end = run("rk45", 2).x
    torch.testing.assert_close(run("heun", 200, grid="quadratic-t").x, end, rtol=0.0, atol=2e-2)
    torch.testing.assert_close(run("euler", 500, grid="quadratic-t").x, end, rtol=0.0, atol=0.1)


def test_the_flow_and_back_returns_to_the_start() -> None:
    """Encoding, and what it keeps: the density along the flow is the mixture's own."""
    start = Noise(0, range(16), (2, 2), dtype=torch.float64).normal("prior")
    data = run("rk45", 1, range(16), x=start).x
    back = run("rk45", 1, range(16), x=data, reverse=True).x
    torch.testing.assert_close(back, start, rtol=0.0, atol=1e-3)
    again = run("heun", 150, range(16), x=data, reverse=True, grid="quadratic-t").x
    torch.testing.assert_close(again, start, rtol=0.0, atol=5e-2)


@pytest.mark.parametrize(
    ("name", "steps"), [("sscs", 60), ("euler-maruyama", 100), ("heun", 60), ("rk45", 2)]
)
def test_samples_follow_the_mixture(name: str, steps: int) -> None:
    count = 1000
    x = run(name, steps, range(count), grid="quadratic-t", final="zero").x[:, 0]
    data = TRIAD.data
    drawn = data.sample(200_000, torch.Generator().manual_seed(0))
    spread, bias = drawn.std(0), 0.06
    assert ((x.mean(0) - drawn.mean(0)).abs() < 5 * spread / count**0.5 + bias).all()
    assert ((torch.cov(x.T) - torch.cov(drawn.T)).abs() < 10 * spread.max() ** 2 / count**0.5 + bias).all()
    shares = [torch.bincount(torch.cdist(y, data.means).argmin(1), minlength=3) / len(y) for y in (x, drawn)]
    assert ((shares[0] - shares[1]).abs() < 2.5 / count**0.5 + bias).all()


@pytest.mark.parametrize("name", NAMES)
def test_network_calls_are_counted_and_the_last_step_makes_none(name: str) -> None:
    if "adaptive" in SOLVERS.get(name).needs:
        assert run(name, 2, final="zero").nfe == run(name, 1).nfe
        return
    each = 2 if name == "heun" else 1
    assert run(name, 12).nfe == each * 12
    assert run(name, 12, final="zero").nfe == each * 11
    denoised = run(name, 12, denoise=True)
    assert denoised.nfe == each * 12 + 1
    assert denoised.x.shape == (8, 2)


def test_the_last_step_is_eulers_on_the_data() -> None:
    before, after = run("sscs", 10, grid="quadratic-t").x, run("sscs", 11, grid="quadratic-t", final="zero").x
    s = float(PROCESS.s(torch.tensor(PROCESS.t_min, dtype=torch.float64)))
    torch.testing.assert_close(after[:, 0], before[:, 0] - s * before[:, 1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_depends_on_seed_and_index_alone(name: str) -> None:
    whole = run(name, 6).x
    torch.testing.assert_close(run(name, 6, range(3, 5)).x, whole[3:5], rtol=1e-9, atol=1e-9)
    assert (run(name, 6, seed=1).x - whole).flatten(1).norm(dim=1).min() > 1e-3


@pytest.mark.parametrize("name", ["sscs", "euler-maruyama"])
def test_more_steps_follow_the_same_noise(name: str) -> None:
    """Brownian increments by counter: finer runs of a seed come closer to each other, in the root mean square."""
    ends = [run(name, steps, range(64), grid="quadratic-t").x[:, 0] for steps in (25, 50, 100, 200)]
    apart = [float((a - b).square().mean().sqrt()) for a, b in pairwise(ends)]
    assert apart[2] < apart[0]
    other = float(
        (ends[3] - run(name, 200, range(64), grid="quadratic-t", seed=1).x[:, 0]).square().mean().sqrt()
    )
    assert apart[2] < other / 3


@pytest.mark.parametrize("name", ["sscs", "heun"])
def test_gradients_pass_through_a_step_and_a_replay_gives_the_same(name: str) -> None:
    x = Noise(0, range(2), (2, 2), dtype=torch.float64).normal("prior")

    def end(start: Tensor) -> Tensor:
        return run(name, 5, range(2), x=start, grid="quadratic-t").x.sin().sum()

    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h = 1e-5
    slope_found = torch.autograd.functional.jvp(end, x, direction)[1]
    difference = (end(x + h * direction) - end(x - h * direction)) / (2 * h)
    assert float(slope_found) == pytest.approx(float(difference), rel=1e-5)
    assert torch.equal(end(x), end(x))


def test_the_callback_sees_every_step() -> None:
    seen: list[tuple[int, tuple[int, ...]]] = []
    run("sscs", 5, final="zero", callback=lambda i, sigma, x, x0: seen.append((i, tuple(x0.shape))))
    assert seen == [(i, (8, 2)) for i in range(5)]


def test_one_step_that_asks_the_network_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="take at least 2 steps"):
        run("sscs", 1, final="zero")
    assert run("sscs", 2, final="zero").x.isfinite().all()


def test_solvers_and_processes_that_do_not_fit_are_refused_both_ways() -> None:
    with pytest.raises(UserError, match=r"ddim steps states of data alone.*there are: .*sscs"):
        build("ddim", state_parts=2)
    with pytest.raises(UserError, match=r"this model has no velocity: it is for cld runs; there are: .*ddim"):
        build("sscs")
    vp = processes.build(VpProcess())
    noise = Noise(0, range(2), (2,), dtype=torch.float64)
    with pytest.raises(UserError, match="sscs steps states of data and velocity"):
        integrate(
            Predictor(TRIAD.data.denoise), vp, "sscs", make_grid("karras", 4, vp), noise.normal("p"), noise
        )
    with pytest.raises(ValueError, match="1-part states"):
        integrate(
            Predictor(TRIAD.denoise),
            PROCESS,
            build("ddim"),
            make_grid("karras", 4, PROCESS),
            noise.normal("p"),
        )
    with pytest.raises(TypeError, match="for Langevin diffusion"):
        build("sscs", state_parts=2).prepare(make_grid("karras", 4, vp), vp)


def test_shortcuts_of_data_space_are_refused() -> None:
    for how in ({"first": "afs"}, {"time_shift": TimeShift(window=4, cutoff=0)}):
        with pytest.raises(UserError, match="states of data alone"):
            run("sscs", 4, **how)
