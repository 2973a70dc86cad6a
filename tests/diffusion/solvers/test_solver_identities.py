"""Different names for one rule give one result, in float64 to 1e-12."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from solver_cases import VP, exact, gaussian, mixture, starts
from torch import Tensor

from gentool.diffusion.grids import Grid, make_grid
from gentool.diffusion.solvers.catalog import SOLVERS
from gentool.diffusion.solvers.core import Row, build, exponential, phi
from gentool.diffusion.solvers.integrate import integrate
from gentool.diffusion.solvers.multistep import DpmMultistep, Lagrange, lagrange_row
from gentool.diffusion.solvers.unipc import UniPC
from gentool.noise import Noise

KEEP = {"final_order": "keep"}


def run(solver: Any, grid: Grid, process: VP, options: dict[str, Any] | None = None) -> Tensor:
    if isinstance(solver, str):
        solver = build(solver, options)
    noise = Noise(0, range(64), (2,)) if solver.stochastic else None
    return integrate(exact(mixture), process, solver, grid, starts(process), noise).x


IN_FULL = {"full_solve": True, "final_order": "keep"}
UNIP = {"corrector": False, **IN_FULL}
X0_RULES = {order: Lagrange(variable="lam", prediction="x0", order=order) for order in (1, 2, 3)}

SAME = [
    ("ddim is dpm-1", ("ddim", {}), ("dpm-1", {})),
    ("ddim is the 1-point rule in t", ("ddim", {}), ("deis-tab", {"order": 1})),
    ("ddim is the 1-point rule on x0", ("ddim", {}), (X0_RULES[1], None)),
    ("ddim is UniP-1", ("ddim", {}), ("unipc", {"order": 1, "corrector": False})),
    ("2M heun type is the 2-point x0 rule", ("dpmpp-2m", {"kind": "heun", **KEEP}), (X0_RULES[2], None)),
    ("UniP-2 in full is the 2-point x0 rule", ("unipc", {"order": 2, **UNIP}), (X0_RULES[2], None)),
    ("UniP-3 in full is the 3-point x0 rule", ("unipc", {"order": 3, **UNIP}), (X0_RULES[3], None)),
    (
        "UniP-3 in full on eps is deis-logrho",
        ("unipc", {"order": 3, "prediction": "eps", **UNIP}),
        ("deis-logrho", {"order": 3}),
    ),
    ("UniP-2 bh2 is 2M midpoint", ("unipc", {"order": 2, "corrector": False, **KEEP}), ("dpmpp-2m", KEEP)),
    ("bh1 is bh2 in full", ("unipc", {"variant": "bh1", **IN_FULL}), ("unipc", IN_FULL)),
    (
        "bh1 is bh2 in full on eps",
        ("unipc", {"variant": "bh1", "prediction": "eps", **IN_FULL}),
        ("unipc", {"prediction": "eps", **IN_FULL}),
    ),
    ("2M on eps in uniform lam is iPNDM-2", ("dpm-2m", KEEP), ("ipndm", {"order": 2})),
    ("GHVB of whole order is iPNDM", ("ghvb", {"order": 4.0}), ("ipndm", {"order": 4})),
    ("heavy ball with beta 1 is iPNDM", ("plms-hb", {"beta": 1.0, "order": 3}), ("ipndm", {"order": 3})),
    ("ancestral-small is DDIM with eta 1", ("ddpm", {}), ("ddim", {"eta": 1.0})),
    ("learned variances at their low end are ancestral-small", ("ddpm-learned", {}), ("ddpm", {})),
    ("SDE 2M with eta 0 is 2M", ("dpmpp-2m-sde", {"eta": 0.0}), ("dpmpp-2m", {})),
    ("SDE 1 with eta 0 is ddim", ("dpmpp-sde", {"eta": 0.0}), ("ddim", {})),
    ("SDE 2S with eta 0 is 2S", ("dpmpp-2s-sde", {"eta": 0.0, "r": 0.4}), ("dpmpp-2s", {"r": 0.4})),
    ("Euler-Maruyama with nu 0 is Euler", ("euler-maruyama", {"nu": 0.0}), ("euler", {})),
    ("edm is Heun in sigma", ("edm", {}), ("deis-rhork", {"tableau": "heun2"})),
    ("edm with alpha 1/2 is midpoint", ("edm", {"alpha": 0.5}), ("deis-rhork", {"tableau": "midpoint2"})),
    ("lms is deis-rhoab", ("lms", {}), ("deis-rhoab", {})),
]


@pytest.mark.parametrize(("left", "right"), [pair for _, *pair in SAME], ids=[what for what, *_ in SAME])
def test_two_names_for_one_rule(left: tuple, right: tuple, vp: VP) -> None:
    grid = make_grid("log-snr", 9, vp)
    a, b = run(left[0], grid, vp, left[1]), run(right[0], grid, vp, right[1])
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_exact_3m_is_the_lagrange_rule_once_warmed_up() -> None:
    """Where orders are 3: at the order-2 warm-up step the released midpoint rule differs."""
    nodes, target = [1.3, 2.1, 4.0], 0.7
    for prediction in ("x0", "eps"):
        ours = DpmMultistep(order=3, prediction=prediction, exact=True)._row(nodes, target)
        lagrange = lagrange_row(prediction, "lam", nodes, target, VP())
        assert ours.c == pytest.approx(lagrange.c, abs=1e-13)
        assert ours.a == pytest.approx(lagrange.a, abs=1e-15)


@pytest.mark.parametrize("prediction", ["x0", "eps"])
@pytest.mark.parametrize("points", [1, 2, 3])
def test_the_unipc_corrector_in_full_is_the_implicit_lagrange_rule(prediction: str, points: int) -> None:
    nodes, target = [1.3, 2.1, 4.0][:points], 0.7
    solver = UniPC(order=points, prediction=prediction, full_solve=True)
    a, (last, *past), _ = solver._row(nodes, target, implicit=True)
    lagrange = lagrange_row(prediction, "lam", [nodes[0], target, *nodes[1:]], target, VP())
    here, ahead, *older = lagrange.c
    assert Row(a, (last, *past)).c == pytest.approx((ahead, here, *older), abs=1e-12)
    assert a == pytest.approx(lagrange.a, abs=1e-15)


def test_ipndm_is_adams_bashforth_on_uniform_sigma(vp: VP) -> None:
    grid = make_grid("uniform-sigma", 9, vp, final="t-min")
    torch.testing.assert_close(run("ipndm", grid, vp), run("deis-rhoab", grid, vp), rtol=1e-12, atol=1e-12)


DETERMINISTIC = [
    name for name in SOLVERS.fitting() if not SOLVERS.get(name).stochastic and name not in ("euler", "heun")
]


@pytest.mark.parametrize("name", [n for n in DETERMINISTIC if n not in ("rk45", "dpm-adaptive")])
def test_point_mass_data_is_reached_exactly_in_any_grid(name: str, vp: VP) -> None:
    """x0 is constant, eps = (x - x0)/sigma is constant along the flow: every rule integrates it exactly.

    Up to rounding: one step from sigma 152 to 0.01 with a call at its end amplifies it by their ratio."""
    at = torch.tensor([0.7, -1.2], dtype=torch.float64)
    noise = torch.tensor([[0.4, -0.3]], dtype=torch.float64)

    def denoise(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        return at.expand_as(x)

    for steps in (1, 2, 3, 6):
        grid = make_grid("power-t", steps, vp)
        x = at + noise * vp.sigma_max
        out = integrate(exact(denoise), vp, name, grid, x).x
        torch.testing.assert_close(out, at + noise * vp.sigma_min, rtol=0, atol=5e-8)


@pytest.mark.parametrize("name", ["rk45", "dpm-adaptive"])
def test_point_mass_data_is_reached_by_adaptive_solvers(name: str, vp: VP) -> None:
    def denoise(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        return torch.full_like(x, 0.7)

    x = torch.full((1, 2), 0.7 + 0.4 * vp.sigma_max, dtype=torch.float64)
    out = integrate(exact(denoise), vp, name, make_grid("log-snr", 1, vp), x).x
    torch.testing.assert_close(out, torch.full_like(x, 0.7 + 0.4 * vp.sigma_min), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_tab_with_a_constant_eps_is_ddim(order: int, vp: VP) -> None:
    """The interpolant of a constant is the constant: the weights of every order sum to sigma_t - sigma_s."""
    sigma = make_grid("power-t", 6, vp).sigma.tolist()
    row = lagrange_row("eps", "t", sigma[4 - order + 1 : 5][::-1], sigma[5], vp)
    assert math.fsum(row.c) == pytest.approx(sigma[5] - sigma[4], rel=1e-12)


@pytest.mark.parametrize("variable", ["t", "lam", "sigma"])
@pytest.mark.parametrize("points", [2, 3, 4])
def test_lagrange_rows_integrate_polynomials_of_their_variable_exactly(
    variable: str, points: int, vp: VP
) -> None:
    """For eps = u^(points-1) the row is the integral of eps d sigma, here by a fine trapezoid rule in lam."""
    sigma = make_grid("log-snr", 6, vp).sigma.tolist()
    nodes, target = sigma[5 - points + 1 : 6][::-1], sigma[6]

    def u(s: Tensor) -> Tensor:
        return {"t": vp.t_of_sigma, "lam": lambda s: -s.log(), "sigma": lambda s: s}[variable](s)

    lam = torch.linspace(-math.log(nodes[0]), -math.log(target), 400_001, dtype=torch.float64)
    levels = (-lam).exp()
    want = float(torch.trapezoid(-levels * u(levels) ** (points - 1), lam))
    row = lagrange_row("eps", variable, nodes, target, vp)
    values = u(torch.tensor(nodes, dtype=torch.float64)) ** (points - 1)
    assert float((values * torch.tensor(row.c, dtype=torch.float64)).sum()) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "deis-tab", "edm", "unipc"])
def test_encoding_then_decoding_returns_the_start(name: str, vp: VP) -> None:
    """To the solver's own accuracy; to rounding when eps is constant."""
    grid = make_grid("power-t", 400, vp)
    x = torch.tensor([[0.3, -0.2], [0.9, 0.7]], dtype=torch.float64)
    code = integrate(exact(mixture), vp, name, grid, x, reverse=True)
    back = integrate(exact(mixture), vp, name, grid, code.x).x
    torch.testing.assert_close(back, x, rtol=0, atol=0.02 if name == "ddim" else 2e-4)
    assert code.nfe == (800 if name == "edm" else 400)


def test_ddim_encoding_of_a_constant_eps_is_an_exact_inverse(vp: VP) -> None:
    eps = torch.tensor([[0.4, -0.3]], dtype=torch.float64)

    def denoise(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        return x - sigma[:, None] * eps

    grid = make_grid("power-t", 7, vp)
    x = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    code = integrate(exact(denoise), vp, "ddim", grid, x, reverse=True).x
    torch.testing.assert_close(integrate(exact(denoise), vp, "ddim", grid, code).x, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_phi_obeys_its_recursion_and_its_limit(k: int) -> None:
    for z in (-9.0, -1.0, -0.999, -0.3, 0.3, 0.999, 1.0, 9.0):
        lower = math.exp(z) if k == 1 else phi(k - 1, z)
        assert phi(k, z) * z == pytest.approx(lower - 1 / math.factorial(k - 1), rel=1e-12)
    assert phi(k, 0.0) == pytest.approx(1 / math.factorial(k), rel=1e-15)
    assert phi(k, 1e-9) == pytest.approx(1 / math.factorial(k), rel=1e-8)


def test_exponential_rows_match_the_papers_formulas() -> None:
    """eps phi_1 = e^h - 1, phi_2 = phi_1/h - 1, phi_3 = phi_2/h - 1/2; x0 with -h."""
    s, t = 3.0, 0.8
    h = math.log(s / t)
    a, p = exponential("eps", s, t)
    phi1 = math.exp(h) - 1
    assert a == 1
    assert p == pytest.approx([-t * phi1, -t * (phi1 / h - 1), -t * ((phi1 / h - 1) / h - 0.5)])
    a, p = exponential("x0", s, t)
    phi1 = math.exp(-h) - 1
    assert a == pytest.approx(t / s)
    assert p == pytest.approx([-phi1, phi1 / h + 1, -((phi1 / h + 1) / h - 0.5)])


def test_afs_is_exact_on_standard_normal_data(vp: VP) -> None:
    """eps = sigma x/(1 + sigma^2) there, and x/sqrt(1 + sigma^2) differs from it by 2e-5 at t = 1."""
    grid = make_grid("power-t", 10, vp)
    asked = integrate(exact(gaussian(1.0)), vp, "ddim", grid, starts(vp))
    saved = integrate(exact(gaussian(1.0)), vp, "ddim", grid, starts(vp), first="afs")
    assert (asked.nfe, saved.nfe) == (10, 9)
    torch.testing.assert_close(asked.x, saved.x, rtol=1e-4, atol=1e-4)
