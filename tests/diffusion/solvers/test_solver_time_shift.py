"""The Time-Shift sampler around solvers."""

from __future__ import annotations

import pytest
import torch
from solver_cases import VP, exact, gaussian, starts_from
from torch import Tensor

from gentool.diffusion.grids import make_grid
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.solvers.core import State, build
from gentool.diffusion.solvers.integrate import integrate
from gentool.diffusion.solvers.time_shift import TimeShift

SHAPE = (400,)


def test_one_shifted_ddim_step_is_the_papers(vp: VP) -> None:
    """x_t with its variance matched at t': network and transfer both use t' in place of t."""
    grid, denoise = make_grid("uniform-t", 8, vp), gaussian(0.1)
    x = 1.06 * starts_from(vp, 3, shape=SHAPE) * float(grid.sigma[2]) / vp.sigma_max
    shift = TimeShift(window=40, cutoff=0)
    plan = shift.around(build("ddim").prepare(grid, vp), vp)
    got = plan.step(State(x), 2, exact(denoise), None).x

    t = float(grid.t[2])
    alpha = vp.alpha(grid.t[2])
    for row, out in zip(x, got):
        variance = float((alpha * row).var())
        candidates = [min(max(t + k * 1e-3, 1e-3), 1.0) for k in range(-20, 21)]
        best = min(candidates, key=lambda u: abs(float(vp.std(torch.tensor(u).double())) ** 2 - variance))
        assert best != t
        here = torch.tensor(best, dtype=torch.float64)
        shifted = alpha * row / vp.alpha(here)
        x0 = denoise(shifted[None], vp.sigma(here)[None], None)[0]
        eps = (shifted - x0) / vp.sigma(here)
        torch.testing.assert_close(out, x0 + grid.sigma[3] * eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "deis-tab", "unipc", "pndm", "edm"])
def test_it_costs_no_calls_and_keeps_samples_apart(name: str, vp: VP) -> None:
    grid, shift = make_grid("power-t", 6, vp), TimeShift(window=30, cutoff=200, data_variance=0.25)
    x = starts_from(vp, 5, shape=SHAPE)
    plain = integrate(exact(gaussian(0.5)), vp, name, grid, x)
    shifted = integrate(exact(gaussian(0.5)), vp, name, grid, x, time_shift=shift)
    assert shifted.nfe == plain.nfe
    assert not torch.equal(shifted.x, plain.x)
    alone = integrate(exact(gaussian(0.5)), vp, name, grid, x[3:4], time_shift=shift).x
    torch.testing.assert_close(shifted.x[3:4], alone, rtol=1e-12, atol=1e-12)
    assert shifted.manifest["time_shift"]["window"] == 30


def test_below_the_cutoff_nothing_shifts(vp: VP) -> None:
    grid = make_grid("power-t", 6, vp)
    x = starts_from(vp, 2, shape=SHAPE)
    plain = integrate(exact(gaussian(0.5)), vp, "ddim", grid, x).x
    same = integrate(exact(gaussian(0.5)), vp, "ddim", grid, x, time_shift=TimeShift(window=30, cutoff=999)).x
    assert torch.equal(plain, same)


def test_it_undoes_a_network_that_loses_variance(vp: VP) -> None:
    """A network whose samples shrink sees inputs narrower than its training: shifting brings the width
    back."""

    def narrow(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        out = gaussian(0.5)(x, sigma, None)
        return x + (out - x) * 1.03  # predicts 3 % too much noise

    grid = make_grid("uniform-t", 40, vp)
    x = starts_from(vp, 16, shape=SHAPE)
    shift = TimeShift(window=20, cutoff=100, data_variance=0.25)
    widths = {
        shifted: float(
            integrate(Predictor(narrow, dtype=torch.float64), vp, "ddim", grid, x, time_shift=shifted).x.std()
        )
        for shifted in (None, shift)
    }
    assert abs(widths[shift] - 0.5) < 0.8 * abs(widths[None] - 0.5)
