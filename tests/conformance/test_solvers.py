"""What every solver of the catalogue must keep, on data whose denoiser is known exactly."""

from __future__ import annotations

import re
import typing
from functools import cache
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from gentool.diffusion import processes
from gentool.diffusion.config import VpProcess
from gentool.diffusion.grids import make_grid
from gentool.diffusion.mixture import GaussianMixture
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.solvers.catalog import GRIDS, SOLVERS
from gentool.diffusion.solvers.core import Solver, build
from gentool.diffusion.solvers.integrate import Result, integrate
from gentool.errors import UserError
from gentool.noise import Noise
from tests.diffusion.heads import known_data, perfect_head

TRIAD = GaussianMixture.triad()
PROCESS = processes.build(VpProcess())
ALL = SOLVERS.fitting(PROCESS.state_parts)
FIXED = [name for name in ALL if "adaptive" not in SOLVERS.get(name).needs]
RANDOM = [name for name in ALL if SOLVERS.get(name).stochastic]
CERTAIN = [name for name in ALL if not SOLVERS.get(name).stochastic]
SPECIAL = {"stages N": 3.0, "N (corrector_steps + 1)": 2.0}
"""Calls per step, with the default options, of the formulas that name an option."""


def predictor() -> Predictor:
    return Predictor(
        TRIAD.denoise,
        derive=perfect_head(TRIAD.denoise),
        spread=known_data(TRIAD.denoise),
        dtype=torch.float64,
    )


def run(solver: str | Solver, steps: int, rows: range, seed: int = 0, final: str = "t-min") -> Result:
    name = solver if isinstance(solver, str) else ""
    grid = make_grid(SOLVERS.get(name).grid if name else "log-snr", steps, PROCESS, final=final)
    noise = Noise(seed, rows, (2,), dtype=torch.float64)
    predict = predictor()
    made = build(name) if name else solver
    return integrate(predict, PROCESS, made, grid, noise.normal("prior") * PROCESS.prior_std, noise)


@cache
def exact(rows: range) -> Tensor:
    """The end point of the probability flow, by 500 steps of an order-3 method."""
    return run("dpm-3", 500, rows).x


def calls(formula: str, steps: int) -> float:
    """The catalogue's count: `aN + b` and the like."""
    first = formula.split(",")[0].removesuffix(" (f)")
    if first in SPECIAL:
        return SPECIAL[first] * steps
    found = re.fullmatch(r"(\d*)N(?: ([+-]) (\d+))?", first)
    assert found is not None, f"the catalogue's nfe {formula!r} is no formula of N"
    return int(found[1] or 1) * steps + int(f"{found[2] or '+'}{found[3] or 0}")


@pytest.mark.parametrize("name", FIXED)
def test_calls_are_those_of_the_catalogue(name: str) -> None:
    """2N - 1 is what steps to zero cost: there the last correction has no slope to correct with."""
    formula = SOLVERS.get(name).nfe
    final = "zero" if "- 1" in formula else "t-min"
    assert run(name, 12, range(4), final=final).nfe == calls(formula, 12)


@pytest.mark.parametrize("name", CERTAIN)
def test_many_steps_reach_the_end_of_the_flow(name: str) -> None:
    rows = range(64)
    end = exact(rows)
    many = float((run(name, 200, rows).x - end).square().mean().sqrt())
    assert many < 0.03
    if name in FIXED:
        assert many < float((run(name, 20, rows).x - end).square().mean().sqrt())


@pytest.mark.parametrize("name", [name for name in ALL if name != "pc"])
def test_samples_follow_the_mixture(name: str) -> None:
    """Mean, covariance and the components' shares of 400 samples, five standard errors wide."""
    count = 400
    x = run(name, 64 if name in RANDOM else 40, range(count)).x
    weights, means = TRIAD.log_weights.exp(), TRIAD.means
    mean = weights @ means
    covariance = torch.diag((weights * TRIAD.variances).sum().expand(2)) + (weights * (means - mean).T) @ (
        means - mean
    )
    spread = torch.diag(covariance).sqrt()
    bias = 0.06  # of order-1 methods at these steps
    assert ((x.mean(0) - mean).abs() < 5 * spread / count**0.5 + bias).all()
    assert ((torch.cov(x.T) - covariance).abs() < 5 * 2 * spread.max() ** 2 / count**0.5 + bias).all()
    nearest = torch.cdist(x, means).argmin(1)
    drawn = torch.cdist(TRIAD.sample(200_000, torch.Generator().manual_seed(0)), means).argmin(1)
    shares, expected = (torch.bincount(k, minlength=3) / len(k) for k in (nearest, drawn))
    assert ((shares - expected).abs() < 5 * 0.5 / count**0.5 + bias).all()


def test_langevin_corrections_keep_the_spread_in_many_dimensions() -> None:
    """Their step sizes take the norms of noise and score, which are steady in images, not in the plane."""
    data = GaussianMixture(
        torch.stack([torch.full((256,), 0.6), torch.full((256,), -0.3)]), [0.3, 0.5], [0.4, 0.6]
    )
    noise = Noise(0, range(32), (256,), dtype=torch.float64)
    predict = Predictor(data.denoise, dtype=torch.float64)
    grid = make_grid("uniform-t", 100, PROCESS)
    x = integrate(predict, PROCESS, "pc", grid, noise.normal("prior") * PROCESS.prior_std, noise).x
    inside = torch.where(x.mean(1) > 0.15, 0.3, 0.5)
    assert (x.std(1) / inside - 1).abs().max() < 0.15


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("steps", [1, 2])
def test_the_fewest_steps_work(name: str, steps: int) -> None:
    assert run(name, steps, range(4), final="zero").x.isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_a_sample_depends_on_seed_and_index_alone(name: str) -> None:
    whole = run(name, 8, range(6)).x
    torch.testing.assert_close(run(name, 8, range(2, 4)).x, whole[2:4], rtol=1e-9, atol=1e-9)
    assert torch.equal(run(name, 8, range(6)).x, whole)
    assert (run(name, 8, range(6), seed=1).x - whole).norm(dim=1).min() > 1e-6


@pytest.mark.parametrize("name", RANDOM)
def test_noise_is_drawn_where_the_catalogue_says_so(name: str) -> None:
    """From the same start another seed goes elsewhere; `test_many_steps` shows that the others do not."""
    grid = make_grid(SOLVERS.get(name).grid, 8, PROCESS)
    start = Noise(0, range(4), (2,), dtype=torch.float64).normal("prior") * PROCESS.prior_std

    def end(seed: int) -> Tensor:
        noise = Noise(seed, range(4), (2,), dtype=torch.float64)
        return integrate(predictor(), PROCESS, name, grid, start, noise).x

    assert (end(1) - end(2)).norm(dim=1).min() > 1e-6


def values_of(name: str, option: str) -> list[Any]:
    """Values that an option must take: each of a Literal's, else its default."""
    solver = type(build(name))
    field = solver.__dataclass_fields__[option]  # type: ignore[attr-defined]
    hint = typing.get_type_hints(solver, include_extras=False)[option]
    literal = [value for value in get_args(hint) if isinstance(value, (str, int))]
    return literal or [field.default]


@pytest.mark.parametrize(("name", "option"), [(n, o) for n in ALL for o in SOLVERS.get(n).options])
def test_every_documented_option_is_taken(name: str, option: str) -> None:
    taken = 0
    for value in values_of(name, option):
        try:
            solver = build(name, {option: value})
        except UserError:
            continue  # a value that the name's other settings rule out
        taken += 1
        assert run(solver, 6, range(3)).x.isfinite().all()
    assert taken


@pytest.mark.parametrize("name", ALL)
def test_unknown_options_and_wrong_values_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="unknown option 'nosuch'"):
        build(name, {"nosuch": 1})
    for option in SOLVERS.get(name).options:
        with pytest.raises(UserError, match=option):
            build(name, {option: "no such value"})


@pytest.mark.parametrize("grid", GRIDS.names())
def test_every_grid_runs_down_from_noise_to_data(grid: str) -> None:
    for steps in (1, 7):
        made = make_grid(grid, steps, PROCESS)
        assert made.steps == steps
        assert (made.sigma[1:] < made.sigma[:-1]).all()
        assert float(made.sigma[0]) <= PROCESS.sigma_max * (1 + 1e-6)
        assert float(made.sigma[-1]) >= 0
