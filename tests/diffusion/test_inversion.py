"""Inversions of pictures: exact where they promise it, and the statistics that closed forms give."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from gentool.diffusion.config import EdmProcess, VpProcess
from gentool.diffusion.grids import Grid, make_grid
from gentool.diffusion.inversion import NoiseMaps, decode, encode, invert, replay
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.processes import build
from gentool.diffusion.solvers.stochastic import ancestral_row
from gentool.errors import UserError
from gentool.noise import Noise

VARIANCE = 0.25
VP, EDM = build(VpProcess()), build(EdmProcess())


def gaussian(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
    """The exact denoiser of N(label, VARIANCE); of N(0, VARIANCE) without labels."""
    level = sigma.view(-1, *[1] * (x.dim() - 1)).square()
    mean = 0.0 if label is None else label.to(x).view_as(level)
    return (VARIANCE * x + level * mean) / (VARIANCE + level)


def predictor(label: Tensor | None = None) -> Predictor:
    return Predictor(gaussian, sigma_min=1e-4, sigma_max=1e6, label=label, dtype=torch.float64)


def data(count: int, *shape: int) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return math.sqrt(VARIANCE) * torch.randn(count, *shape, generator=rng, dtype=torch.float64)


def noise(count: int, *shape: int, first: int = 0) -> Noise:
    return Noise(0, range(first, first + count), shape, dtype=torch.float64)


def grid(steps: int = 20, final: str = "zero") -> Grid:
    return make_grid("uniform-t", steps, VP, final=final)


def to_float(maps: NoiseMaps) -> NoiseMaps:
    return NoiseMaps(maps.start.float(), tuple(m.float() for m in maps.moves), maps.skip)


@pytest.mark.parametrize("skip", [0, 7, 19])
def test_the_maps_restore_the_picture(skip: int) -> None:
    """To rounding, from any level, in float32 too; and the maps carry it: half of them do not."""
    x0, steps = data(4, 3, 2), grid()
    maps = invert(predictor(), steps, x0, noise(4, 3, 2), skip)
    assert len(maps.moves) == 20 - skip
    torch.testing.assert_close(replay(predictor(), steps, maps), x0, rtol=0, atol=1e-14)
    torch.testing.assert_close(
        replay(predictor(), steps, to_float(maps)), x0.float(), rtol=0, atol=1e-5, check_dtype=False
    )
    halved = NoiseMaps(maps.start, tuple(m / 2 for m in maps.moves), skip)
    assert (replay(predictor(), steps, halved) - x0).abs().mean() > 0.002


def test_another_condition_moves_the_picture_towards_it_and_skipping_keeps_more() -> None:
    x0, steps = data(64, 5), grid(50)
    target, moved = torch.full((64,), 2), []
    for skip in (0, 25, 45):
        maps = invert(predictor(torch.zeros(64)), steps, x0, noise(64, 5), skip)
        moved.append(float((replay(predictor(target), steps, maps) - x0).mean()))
    # for Gaussians the flow's end is linear in the mean: all of it from the top, and less and less of it from below
    assert moved[0] == pytest.approx(2, abs=0.05)
    assert moved[0] > moved[1] > moved[2] > 0


def test_the_maps_of_gaussian_data_have_the_closed_forms_moments() -> None:
    """Standard deviation far above a sampler's 1, and neighbours anticorrelated: the states' noises are independent."""
    steps = grid(100)
    z = invert(predictor(), steps, data(4000, 4), noise(4000, 4)).normal(steps)
    sigma = steps.sigma.tolist()
    rows = [ancestral_row(s, t, 1.0) for s, t in pairwise(sigma[:-1])]
    # mean = k (x0 + s e), so that the map is ((1 - k) x0 + t e' - k s e) / up
    k = [row.a + row.c[0] * VARIANCE / (VARIANCE + s * s) for row, s in zip(rows, sigma)]
    for i in (20, 50, 90):
        s, t = sigma[i], sigma[i + 1]
        variance = (1 - k[i]) ** 2 * VARIANCE + t**2 + (k[i] * s) ** 2
        assert float(z[i].std()) == pytest.approx(math.sqrt(variance) / rows[i].noise, rel=0.02)
        assert float(z[i].std()) > 2
        shared = (1 - k[i]) * (1 - k[i + 1]) * VARIANCE - k[i + 1] * t**2
        expected = shared / (rows[i].noise * rows[i + 1].noise)
        found = float((z[i] * z[i + 1]).mean())
        assert found == pytest.approx(expected, rel=0.05)
        assert found / float(z[i].std() * z[i + 1].std()) == pytest.approx(-0.5, abs=0.03)


def test_rolling_the_maps_rolls_the_picture() -> None:
    """The denoiser here is the same at every pixel, so the maps carry all of the layout."""
    x0, steps = data(2, 1, 6), grid()
    maps = invert(predictor(), steps, x0, noise(2, 1, 6))
    rolled = NoiseMaps(maps.start.roll(2, -1), tuple(m.roll(2, -1) for m in maps.moves), 0)
    torch.testing.assert_close(replay(predictor(), steps, rolled), x0.roll(2, -1))


def test_a_pictures_maps_do_not_depend_on_its_batch() -> None:
    x0, steps = data(4, 3), grid()
    whole = invert(predictor(), steps, x0, noise(4, 3))
    part = invert(predictor(), steps, x0[2:], noise(2, 3, first=2))
    torch.testing.assert_close(part.moves[3], whole.moves[3][2:], rtol=0, atol=1e-14)


def test_ddim_encodes_to_the_exact_flow_and_its_error_halves_with_the_step() -> None:
    x0 = data(8, 3)
    errors, trips = [], []
    for n in (100, 200, 400):
        steps = make_grid("log-snr", n, EDM, final="t-min")
        low, high = float(steps.sigma[-1]), float(steps.sigma[0])
        top = encode(predictor(), EDM, steps, x0)
        exact = x0 * math.sqrt((VARIANCE + high**2) / (VARIANCE + low**2))
        errors.append(float((top / exact - 1).abs().max()))
        trips.append(float((decode(predictor(), EDM, steps, top) - x0).square().mean().sqrt()))
    for found in (errors, trips):
        assert found[0] / found[1] == pytest.approx(2, abs=0.2)
        assert found[1] / found[2] == pytest.approx(2, abs=0.15)
    assert trips[0] > 1e-3  # unlike the maps', which is rounding


def test_ddim_skips_to_the_level_it_says() -> None:
    steps = make_grid("log-snr", 50, EDM, final="t-min")
    x0 = data(8, 3)
    top = encode(predictor(), EDM, steps, x0, skip=40)
    ratio = math.sqrt(1 + float(steps.sigma[40]) ** 2 / VARIANCE)
    assert float((top / x0).mean()) == pytest.approx(ratio, rel=0.02)


@pytest.mark.parametrize("skip", [-1, 20, 99])
def test_not_every_step_can_be_skipped(skip: int) -> None:
    with pytest.raises(UserError, match=f"0 to 19 of the 20 steps, not {skip}"):
        invert(predictor(), grid(), data(1, 2), noise(1, 2), skip)
    with pytest.raises(UserError, match="--skip"):
        encode(predictor(), VP, grid(final="t-min"), data(1, 2), skip)
