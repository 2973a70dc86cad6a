"""Parity with diffusers' schedulers on an analytic model, at their own float32
levels."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from solver_cases import Ddpm, exact, mixture
from torch import Tensor

from gentool.diffusion.grids import Grid, make_grid
from gentool.diffusion.solvers.core import Solver, build
from gentool.diffusion.solvers.integrate import integrate
from gentool.diffusion.solvers.multistep import Lagrange
from gentool.diffusion.solvers.singlestep import DpmFast

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers.*"),
    pytest.mark.golden,
    pytest.mark.skipif(find_spec("diffusers") is None, reason="diffusers is a test-only dependency"),
]

BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
N = 10


def scheduler(name: str, **options: Any) -> Any:
    """Imported one by one: a star import of the package fails on a broken lazy export."""
    module = {
        "DDIMScheduler": "ddim",
        "DPMSolverMultistepScheduler": "dpmsolver_multistep",
        "DPMSolverSinglestepScheduler": "dpmsolver_singlestep",
        "UniPCMultistepScheduler": "unipc_multistep",
        "DEISMultistepScheduler": "deis_multistep",
        "PNDMScheduler": "pndm",
        "EulerDiscreteScheduler": "euler_discrete",
        "LMSDiscreteScheduler": "lms_discrete",
        "HeunDiscreteScheduler": "heun_discrete",
        "KDPM2DiscreteScheduler": "k_dpm_2_discrete",
    }[name]
    cls = getattr(import_module(f"diffusers.schedulers.scheduling_{module}"), name)
    made = cls(**BETAS, **options)
    made.set_timesteps(N)
    return made


def start() -> Tensor:
    return torch.randn(8, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def theirs(made: Any, eps: Callable[[Tensor, float], Tensor], x: Tensor) -> tuple[Tensor, int]:
    """Run the scheduler's own loop with an analytic eps(x_t, t in 0 .. 999)."""
    calls = 0
    for t in made.timesteps:
        fed = made.scale_model_input(x, t)
        x = made.step(eps(fed, float(t)), t, x).prev_sample
        calls += 1
    return x, calls


class Model:
    """The mixture as an eps-network of a discrete model with fractional times, on one table of levels."""

    def __init__(self, process: Ddpm) -> None:
        self.process = process

    def __call__(self, x: Tensor, t: float) -> Tensor:
        time = torch.tensor((t + 1) / 1000, dtype=torch.float64)
        alpha, sigma = self.process.alpha(time), self.process.sigma(time)
        canonical = x.double() / alpha
        return ((canonical - mixture(canonical, sigma.expand(len(x)))) / sigma).to(x.dtype)


def grid_of(made: Any, ddpm: Ddpm) -> Grid:
    """The scheduler's levels, snapped from float32 to the float64 table where they are integer times."""
    levels = torch.as_tensor(made.sigmas, dtype=torch.float64).unique_consecutive()
    return Grid("scheduler", torch.zeros_like(levels), levels)


def ours(solver: Solver, grid: Grid, process: Ddpm, x: Tensor) -> tuple[Tensor, float]:
    timed = Grid(grid.name, torch.where(grid.sigma > 0, process.t_of_sigma(grid.sigma), 0.0), grid.sigma)
    result = integrate(exact(mixture), process, solver, timed, x)
    return result.x, result.nfe


def alpha_of(sigma: float) -> float:
    return float((1 + sigma**2) ** -0.5)


def compare(made: Any, solver: Solver, ddpm: Ddpm, tolerance: float, *, canonical: bool = False) -> None:
    """`canonical`: the scheduler's state is x_t/alpha already (the k-diffusion kind)."""
    grid = grid_of(made, ddpm)
    first, last = float(grid.sigma[0]), float(grid.sigma[-1])
    x = start() * (first if canonical else 1.0)
    want, calls = theirs(made, Model(ddpm), x)
    got, nfe = ours(solver, grid, ddpm, x if canonical else x / alpha_of(first))
    got = got if canonical else got * alpha_of(last)
    torch.testing.assert_close(got, want.double(), rtol=0, atol=tolerance)
    assert nfe == calls


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("to_one", [True, False])
def test_ddim(spacing: str, to_one: bool, ddpm: Ddpm) -> None:
    made = scheduler("DDIMScheduler", clip_sample=False, timestep_spacing=spacing, set_alpha_to_one=to_one)
    grid = make_grid(spacing, N, ddpm, final="zero" if to_one else "t-min")
    want, _ = theirs(made, Model(ddpm), start())
    first, last = float(grid.sigma[0]), float(grid.sigma[-1])
    got, _ = ours(build("ddim"), grid, ddpm, start() / alpha_of(first))
    torch.testing.assert_close(got * alpha_of(last), want.double(), rtol=0, atol=5e-6)


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize(("order", "name"), [(1, "ddim"), (2, "dpmpp-2m"), (3, "dpmpp-3m")])
def test_dpmpp_multistep(order: int, name: str, final: str, ddpm: Ddpm) -> None:
    made = scheduler(
        "DPMSolverMultistepScheduler",
        solver_order=order,
        final_sigmas_type=final,
        timestep_spacing="linspace",
    )
    compare(made, build(name), ddpm, 5e-6)


def test_the_released_third_order_is_not_the_exact_one(ddpm: Ddpm) -> None:
    """Every released code halves the quadratic term: the exact rule differs by 6e-3, so parity is a
    choice."""
    made = scheduler(
        "DPMSolverMultistepScheduler",
        solver_order=3,
        final_sigmas_type="sigma_min",
        timestep_spacing="linspace",
    )
    with pytest.raises(AssertionError):
        compare(made, build("dpmpp-3m-exact"), ddpm, 1e-3)


@pytest.mark.parametrize("kind", ["midpoint", "heun"])
def test_dpmpp_2m_kinds(kind: str, ddpm: Ddpm) -> None:
    made = scheduler(
        "DPMSolverMultistepScheduler",
        solver_type=kind,
        final_sigmas_type="sigma_min",
        timestep_spacing="linspace",
    )
    compare(made, build("dpmpp-2m", {"kind": kind}), ddpm, 5e-6)


def test_dpm_2m(ddpm: Ddpm) -> None:
    made = scheduler(
        "DPMSolverMultistepScheduler",
        algorithm_type="dpmsolver",
        final_sigmas_type="sigma_min",
        timestep_spacing="linspace",
    )
    compare(made, build("dpm-2m"), ddpm, 5e-6)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(order: int, variant: str, ddpm: Ddpm) -> None:
    for final in ("sigma_min", "zero") if variant == "bh2" else ("sigma_min",):  # bh1 to zero is NaN there
        made = scheduler(
            "UniPCMultistepScheduler",
            solver_order=order,
            solver_type=variant,
            final_sigmas_type=final,
            timestep_spacing="linspace",
        )
        compare(made, build("unipc", {"order": order, "variant": variant}), ddpm, 1e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis_in_log_rho(order: int, ddpm: Ddpm) -> None:
    made = scheduler("DEISMultistepScheduler", solver_order=order, timestep_spacing="linspace")
    compare(made, Lagrange(variable="lam", order=order, final_order="lower"), ddpm, 2e-5)


def test_dpmpp_singlestep_between_grid_points(ddpm: Ddpm) -> None:
    made = scheduler(
        "DPMSolverSinglestepScheduler", solver_order=2, final_sigmas_type="sigma_min", lower_order_final=False
    )
    compare(made, DpmFast(order=2, prediction="x0"), ddpm, 1e-5)


@pytest.mark.parametrize(
    ("name", "solver", "options", "tolerance"),
    [
        ("EulerDiscreteScheduler", "ddim", {}, 1e-5),
        ("HeunDiscreteScheduler", "edm", {}, 1e-4),
    ],
)
def test_k_diffusion_kind(
    name: str, solver: str, options: dict[str, Any], tolerance: float, ddpm: Ddpm
) -> None:
    compare(scheduler(name), build(solver, options), ddpm, tolerance, canonical=True)


def test_lms_up_to_its_last_step(ddpm: Ddpm) -> None:
    """Here the step to sigma = 0 is x = x0, as for every solver; LMS there extrapolates at full order."""
    made = scheduler("LMSDiscreteScheduler")
    made.timesteps = made.timesteps[:-1]
    grid = grid_of(made, ddpm)
    x = start() * float(grid.sigma[0])
    want, _ = theirs(made, Model(ddpm), x)
    got, _ = ours(build("lms", {"order": 4}), Grid("scheduler", grid.t[:-1], grid.sigma[:-1]), ddpm, x)
    torch.testing.assert_close(got, want, rtol=0, atol=2e-5)


@pytest.mark.parametrize("skip", [True, False])
def test_pndm(skip: bool, ddpm: Ddpm) -> None:
    """S-PNDM's start then orders 2, 3, 4 (11 calls), and F-PNDM (19 calls), on leading spacing to level 0."""
    made = scheduler("PNDMScheduler", skip_prk_steps=skip, timestep_spacing="leading", set_alpha_to_one=False)
    want, calls = theirs(made, Model(ddpm), start())
    grid = _leading_past_zero(ddpm)
    solver = build("pndm", {"start": "s" if skip else "f", "order": 4})
    got, nfe = ours(solver, grid, ddpm, start() / alpha_of(float(grid.sigma[0])))
    torch.testing.assert_close(got * alpha_of(float(grid.sigma[-1])), want.double(), rtol=0, atol=2e-5)
    assert nfe == calls


def _leading_past_zero(ddpm: Ddpm) -> Grid:
    n = torch.tensor([*range(900, -1, -100), 0], dtype=torch.float64)
    t = (n + 1) / 1000
    return Grid("leading", t, ddpm.sigma(t))
