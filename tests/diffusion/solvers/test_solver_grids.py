"""Grids: golden levels, ends, and every refusal with the interval that is allowed."""

from __future__ import annotations

import math

import pytest
import torch
from solver_cases import EDM, VP, Ddpm
from torch import Tensor

from gentool.diffusion.grids import custom_grid, make_grid
from gentool.diffusion.process import Process
from gentool.diffusion.solvers.catalog import GRIDS
from gentool.errors import UserError


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_karras_golden_levels(edm: EDM) -> None:
    eighteen = (
        "80 57.586 40.786 28.375 19.352 12.910 8.4009 5.3152 3.2568 1.9233 1.0882 "
        "0.58535 0.29644 0.13952 0.059947 0.022935 0.0075280 0.002 0"
    )
    for steps, text in ((18, eighteen), (5, "80 17.5278 2.51522 0.169753 0.002 0")):
        grid = make_grid("karras", steps, edm)
        torch.testing.assert_close(grid.sigma, f64(*map(float, text.split())), rtol=5e-5, atol=0)
        assert grid.steps == steps


@pytest.mark.parametrize("final", ["zero", "t-min"])
@pytest.mark.parametrize("name", list(GRIDS))
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_every_grid_decreases_between_the_ends_of_its_process(name: str, steps: int, final: str) -> None:
    if (name, steps, final) == ("leading", 1, "t-min"):
        pytest.skip("starts and ends at level 0: refused, see below")
    for process in (VP(), EDM(), Ddpm()):
        grid = make_grid(name, steps, process, final=final)
        assert grid.sigma.dtype == grid.t.dtype == torch.float64
        assert len(grid.sigma) == len(grid.t) == grid.steps + 1
        assert bool((grid.sigma.diff() < 0).all())
        assert bool((grid.t.diff() < 0).all())
        assert grid.final == final
        if name not in ("leading", "trailing", "linspace"):
            assert grid.steps == steps
            assert float(grid.sigma[0]) == process.sigma_max
            last = grid.sigma[-1] if final == "t-min" else grid.sigma[-2]
            assert float(last) == (process.sigma_min if final == "t-min" or steps > 1 else process.sigma_max)
        positive = grid.sigma > 0
        torch.testing.assert_close(process.sigma(grid.t[positive]), grid.sigma[positive], rtol=1e-9, atol=0)


def test_grids_are_uniform_in_what_they_say(vp: VP) -> None:
    def even(values: Tensor) -> None:
        torch.testing.assert_close(values.diff(), values.diff().mean().expand(12), rtol=1e-8, atol=0)

    even(make_grid("log-snr", 12, vp).lam)
    even(make_grid("uniform-t", 12, vp).t)
    even(make_grid("power-t", 12, vp).t.sqrt())
    even(make_grid("power-t", 12, vp, kappa=3.0).t ** (1 / 3))
    even(make_grid("uniform-sigma", 12, vp, final="t-min").sigma)
    even(make_grid("karras", 12, vp, final="t-min", rho=5.0).sigma ** (1 / 5))
    even(make_grid("poly-exp", 12, vp, final="t-min").lam)


def test_poly_exp_is_k_diffusions(edm: EDM) -> None:
    ramp = torch.linspace(1, 0, 6, dtype=torch.float64) ** 2
    want = (ramp * (math.log(80) - math.log(0.002)) + math.log(0.002)).exp()
    torch.testing.assert_close(make_grid("poly-exp", 6, edm, power=2.0).sigma[:-1], want, rtol=1e-12, atol=0)


def test_edm_vp_is_uniform_in_the_time_of_the_fitted_process() -> None:
    """Fitted to the ends of the linear-beta process itself, it is that process's uniform-t grid."""
    vp = VP()
    torch.testing.assert_close(
        make_grid("edm-vp", 9, vp, final="t-min").sigma,
        make_grid("uniform-t", 9, vp).sigma,
        rtol=1e-9,
        atol=0,
    )


def test_discrete_spacings(ddpm: Ddpm) -> None:
    def indices(name: str, steps: int, **options: str) -> list[int]:
        t = make_grid(name, steps, ddpm, **options).t
        return [round(float(x) * 1000 - 1, 6) for x in t if x > 0]

    assert indices("leading", 10) == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    assert indices("trailing", 10) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert indices("trailing", 10, final="t-min")[-2:] == [99, 0]
    assert indices("linspace", 10) == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    assert indices("linspace", 1) == [999]


def test_levels_that_coincide_are_dropped_and_counted(ddpm: Ddpm) -> None:
    """Leading spacing ends at level 0: one more step to level 0 has length 0 (diffusers #6477)."""
    grid = make_grid("leading", 10, ddpm, final="t-min")
    assert grid.steps == 9
    assert "10 steps asked for, 9 remain" in grid.notes[0]
    assert make_grid("leading", 10, ddpm).notes == ()


def test_a_range_by_time_is_the_range_by_level(vp: VP) -> None:
    high, low = vp.sigma(f64(0.6, 0.1)).tolist()
    by_time = make_grid("log-snr", 5, vp, t_max=0.6, t_min=0.1)
    by_level = make_grid("log-snr", 5, vp, sigma_max=high, sigma_min=low)
    assert torch.equal(by_time.sigma, by_level.sigma)
    torch.testing.assert_close(by_time.t[[0, -1]], f64(0.6, 0.1), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t_max": 1.2}, r"grid.t_max: expected a time in \[0.001, 1\], not 1.2"),
        ({"t_min": 0.0}, r"grid.t_min: expected a time in \[0.001, 1\], not 0"),
        ({"sigma_max": 500.0}, r"expected a noise level in \[0.010486, 152.167\], not 500"),
        ({"t_max": 0.1, "t_min": 0.5}, "the range is empty"),
        ({"t_max": 0.5, "sigma_max": 3.0}, "not both"),
        ({"kapa": 2.0}, "did you mean kappa"),
        ({"kappa": -1.0}, "grid.kappa: input should be greater than 0, not -1.0"),
        ({"final": "zer"}, "grid.final: input should be 'zero' or 't-min', not 'zer'"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(options: dict, message: str, vp: VP) -> None:
    with pytest.raises(UserError, match=message):
        make_grid("power-t", 5, vp, **options)


def test_bad_names_and_steps_are_refused(vp: VP) -> None:
    with pytest.raises(UserError, match="unknown grid 'karas'; did you mean karras"):
        make_grid("karas", 5, vp)
    with pytest.raises(UserError, match="at least 1"):
        make_grid("karras", 0, vp)
    with pytest.raises(UserError, match="single noise level"):
        make_grid("leading", 1, vp, final="t-min")
    with pytest.raises(UserError, match="1001 steps do not fit in the 1000 levels"):
        make_grid("trailing", 1001, vp)


def test_a_process_that_starts_at_zero_needs_a_final_step_to_zero() -> None:
    class Clean(EDM):
        t_min = 0.0

    clean: Process = Clean()
    with pytest.raises(UserError, match="above sigma = 0"):
        make_grid("uniform-t", 5, clean)


def test_custom_levels(vp: VP) -> None:
    grid = custom_grid(f64(3.0, 1.0, 0.0), vp)
    assert (grid.steps, grid.final) == (2, "zero")
    torch.testing.assert_close(vp.sigma(grid.t[:2]), f64(3.0, 1.0), rtol=1e-12, atol=0)
    for bad in (f64(1.0, 1.0), f64(1.0), f64(1.0, 2.0), f64(1.0, -1.0), f64(1.0, math.nan)):
        with pytest.raises(UserError, match="strictly decreasing"):
            custom_grid(bad, vp)


def test_reversing_twice_is_the_grid(vp: VP) -> None:
    grid = make_grid("log-snr", 5, vp)
    assert torch.equal(grid.reversed().reversed().sigma, grid.sigma)
    assert torch.equal(grid.reversed().t, grid.t.flip(0))


@pytest.mark.parametrize("option", ["rho", "kappa", "power", "levels"])
@pytest.mark.parametrize("name", list(GRIDS))
def test_an_option_either_moves_a_grids_levels_or_is_refused(name: str, option: str, ddpm: Ddpm) -> None:
    given = {option: 500 if option == "levels" else 3.0}
    if option in GRIDS.get(name).shape:
        assert not torch.equal(make_grid(name, 5, ddpm, **given).sigma, make_grid(name, 5, ddpm).sigma)
    else:
        with pytest.raises(UserError, match=f"unknown option '{option}' of grid {name}"):
            make_grid(name, 5, ddpm, **given)
