"""Adaptive solvers: accuracy follows the tolerance, and a sample never depends on its batch."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import solve_ivp
from solver_cases import EDM, VP, exact, gaussian, mixture, starts
from torch import Tensor

from gentool.diffusion.dormand_prince import ERROR, NODES, STAGES
from gentool.diffusion.grids import make_grid
from gentool.diffusion.solvers.core import build
from gentool.diffusion.solvers.integrate import integrate
from gentool.errors import GentoolError


def test_the_dormand_prince_tableau_is_consistent() -> None:
    """Row sums are c; the weights meet the order conditions sum b c^k = 1/(k+1) to orders 5 and 4."""
    for c, row in zip(NODES, STAGES):
        assert math.fsum(row) == pytest.approx(c, abs=1e-15)
    high = [*STAGES[-1], 0.0]
    low = [b - e for b, e in zip(high, ERROR)]
    for k in range(5):
        assert math.fsum(b * c**k for b, c in zip(high, NODES)) == pytest.approx(1 / (k + 1), abs=1e-14)
        if k < 4:
            assert math.fsum(b * c**k for b, c in zip(low, NODES)) == pytest.approx(1 / (k + 1), abs=1e-14)


@pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-9])
def test_rk45_reaches_its_tolerance_on_gaussian_data(rtol: float, edm: EDM) -> None:
    x = torch.tensor([[80.0], [-10.0], [0.3]], dtype=torch.float64)
    solver = build("rk45", {"rtol": rtol, "atol": rtol})
    out = integrate(exact(gaussian(0.5)), edm, solver, make_grid("log-snr", 1, edm), x)
    want = x * math.sqrt((0.25 + 0.002**2) / (0.25 + 80.0**2))
    assert float((out.x - want).abs().max()) < 60 * rtol
    assert out.manifest["orders"] == [5]


def test_rk45_agrees_with_scipys_on_one_sample(vp: VP) -> None:
    """The same method in lam with the same tolerances: as many accepted steps give the same accuracy."""
    x = starts(vp, 1)

    def slope(lam: float, y: list[float]) -> list[float]:
        point = torch.tensor([list(y)], dtype=torch.float64)
        return (mixture(point, torch.tensor([math.exp(-lam)], dtype=torch.float64)) - point)[0].tolist()

    ends = (-math.log(vp.sigma_max), -math.log(vp.sigma_min))
    theirs = solve_ivp(slope, ends, x[0].tolist(), method="RK45", rtol=1e-6, atol=1e-6)
    tight = solve_ivp(slope, ends, x[0].tolist(), method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    out = integrate(
        exact(mixture), vp, build("rk45", {"rtol": 1e-6, "atol": 1e-6}), make_grid("log-snr", 1, vp), x
    )
    assert float((out.x[0] - torch.tensor(tight)).abs().max()) < 1e-5
    assert out.nfe == pytest.approx(theirs.nfev, rel=0.15)


@pytest.mark.parametrize("name", ["rk45", "dpm-adaptive"])
def test_an_easy_sample_is_not_changed_by_a_hard_one(name: str, edm: EDM) -> None:
    """The hard sample needs many more steps; the easy one's result is the same to the last bit."""

    def denoise(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        # the second coordinate stays as it is and says how fast the prediction turns for this row
        return torch.stack([torch.sin(x[:, 0] * x[:, 1]), x[:, 1]], 1)

    grid = make_grid("log-snr", 1, edm)
    easy = torch.tensor([[20.0, 0.01]], dtype=torch.float64)
    hard = torch.tensor([[-13.0, 40.0]], dtype=torch.float64)
    alone = integrate(exact(denoise), edm, name, grid, easy)
    both = integrate(exact(denoise), edm, name, grid, torch.cat([easy, hard]))
    assert both.nfe > alone.nfe
    assert torch.equal(both.x[:1], alone.x)


@pytest.mark.parametrize("order", [2, 3])
def test_dpm_adaptive_error_follows_the_tolerance(order: int, vp: VP) -> None:
    grid = make_grid("log-snr", 1, vp)
    x = starts(vp)
    want = integrate(exact(mixture), vp, build("rk45", {"rtol": 1e-10, "atol": 1e-10}), grid, x).x
    errors, calls = [], []
    for factor in (1.0, 0.01):
        solver = build("dpm-adaptive", {"order": order, "atol": 0.0078 * factor, "rtol": 0.05 * factor})
        result = integrate(exact(mixture), vp, solver, grid, x)
        errors.append(float((result.x - want).norm(dim=1).mean()))
        calls.append(result.nfe)
        assert result.nfe % order == 0
    assert errors[0] < 0.1
    assert errors[1] < errors[0] / 8
    assert calls[1] > calls[0]


@pytest.mark.parametrize("name", ["rk45", "dpm-adaptive"])
def test_a_final_zero_adds_one_prediction(name: str, vp: VP) -> None:
    predict = exact(mixture)
    plain = integrate(predict, vp, name, make_grid("log-snr", 1, vp), starts(vp))
    to_zero = integrate(predict, vp, name, make_grid("log-snr", 7, vp, final="zero"), starts(vp))
    assert torch.equal(to_zero.x, predict(plain.x, vp.sigma_min))
    assert to_zero.nfe == plain.nfe + 1


def test_rk45_encodes(vp: VP) -> None:
    solver = build("rk45", {"rtol": 1e-8, "atol": 1e-8})
    grid = make_grid("log-snr", 1, vp)
    x = torch.tensor([[0.3, -0.2], [0.9, 0.7]], dtype=torch.float64)
    code = integrate(exact(mixture), vp, solver, grid, x, reverse=True).x
    assert float(code.abs().max()) > 10
    torch.testing.assert_close(integrate(exact(mixture), vp, solver, grid, code).x, x, rtol=0, atol=1e-5)


def test_a_tolerance_that_cannot_be_met_ends(edm: EDM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gentool.diffusion.solvers.adaptive.MAX_TRIALS", 50)
    solver = build("rk45", {"rtol": 1e-14, "atol": 1e-14})
    x = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(GentoolError, match="loosen rtol"):
        integrate(exact(gaussian(0.5)), edm, solver, make_grid("log-snr", 1, edm), x)
