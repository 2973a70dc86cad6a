"""ttm2 and genie: order, exact cases, first and last steps, encoding, guidance, counted calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gentool.diffusion import processes
from gentool.diffusion.config import VpProcess
from gentool.diffusion.convert import per_sample
from gentool.diffusion.grids import custom_grid, make_grid
from gentool.diffusion.guidance.classifier_free import ClassifierFree, Projected
from gentool.diffusion.guidance.compose import compose
from gentool.diffusion.mixture import GaussianMixture
from gentool.diffusion.predictor import Denoise, Derive, Predictor
from gentool.diffusion.solvers.core import build
from gentool.diffusion.solvers.integrate import integrate
from gentool.diffusion.solvers.taylor import Taylor2
from gentool.errors import UserError
from tests.diffusion.heads import perfect_head

TRIAD = GaussianMixture.triad()
VP = processes.build(VpProcess())
ALPHA_END = VP.alpha(torch.tensor(VP.t_min, dtype=torch.float64))


def predictor(denoise: Denoise, derive: Derive | None = None, **options: Any) -> Predictor:
    return Predictor(denoise, derive=derive, dtype=torch.float64, **options)


def no_slope(x: Tensor, sigma: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
    return TRIAD.denoise(x, sigma, label), torch.zeros_like(x)


def starts(count: int = 64) -> Tensor:
    z = torch.randn(count, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return z * VP.prior_std


def run(name: str, x: Tensor, grid: str = "power-t", steps: int = 10, **how: Any) -> Tensor:
    made = make_grid(grid, steps, VP)
    return integrate(predictor(TRIAD.denoise, perfect_head(TRIAD.denoise)), VP, name, made, x, **how).x


def rmse(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().sum(1).mean().sqrt())


def gaussian(x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
    return per_sample(0.25 / (0.25 + sigma**2), x) * x


@pytest.mark.parametrize(
    ("grid", "want"),
    [("log-snr", 0.4575326927), ("uniform-t", 0.4624328375), ("power-t", 0.4816611218)],
)
def test_ends_of_a_gaussian(grid: str, want: float) -> None:
    """N(0, 1/4), ten steps from x_1 = 1 to t = 1e-3; the flow ends at 0.50009."""
    x = torch.ones(1, 1, dtype=torch.float64) * VP.prior_std
    end = integrate(predictor(gaussian), VP, "ttm2", make_grid(grid, 10, VP), x).x
    assert float(end * ALPHA_END) == pytest.approx(want, abs=1e-9)


def test_one_step_on_a_gaussian() -> None:
    """x grows by 1 + h g/(s^2 + g^2) + h^2/2 s^2/(s^2 + g^2)^2."""
    x, g, h = torch.tensor([[2.0]], dtype=torch.float64), 3.0, -1.2
    grid = custom_grid(torch.tensor([g, g + h], dtype=torch.float64), VP)
    total = 0.25 + g**2
    factor = 1 + h * g / total + h**2 / 2 * 0.25 / total**2
    assert float(integrate(predictor(gaussian), VP, "ttm2", grid, x).x) == pytest.approx(
        2 * factor, rel=1e-13
    )


def test_a_field_linear_in_sigma_is_followed_exactly() -> None:
    """eps = a + b sigma whatever x: the Taylor series ends there, and any step is exact."""
    a, b = torch.tensor([0.3, -1.0]).double(), torch.tensor([0.5, 0.2]).double()

    def denoise(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        return x - sigma[:, None] * (a + b * sigma[:, None])

    grid = custom_grid(torch.tensor([100.0, 0.5], dtype=torch.float64), VP)
    x = torch.zeros(1, 2, dtype=torch.float64)
    want = x + a * (0.5 - 100) + b * (0.5**2 - 100**2) / 2
    torch.testing.assert_close(integrate(predictor(denoise), VP, "ttm2", grid, x).x, want, rtol=1e-12, atol=0)


def test_a_perfect_head_gives_the_exact_method() -> None:
    torch.testing.assert_close(run("genie", starts()), run("ttm2", starts()), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["ddim", "dpm-1"])
def test_a_head_without_a_slope_is_ddim(name: str) -> None:
    grid = make_grid("power-t", 10, VP)
    genie = integrate(predictor(TRIAD.denoise, no_slope), VP, "genie", grid, starts()).x
    ddim = integrate(predictor(TRIAD.denoise), VP, name, grid, starts()).x
    torch.testing.assert_close(genie, ddim, rtol=1e-11, atol=1e-11)


def test_calls_are_counted_as_they_are_made() -> None:
    """The head shares its network call; the exact derivative costs a call, and a product worth two."""
    grid, x = make_grid("power-t", 6, VP), starts(4)
    counts = {}
    for name in ("genie", "ttm2"):
        for first in (None, "afs"):
            for denoise in (False, True):
                predict = predictor(TRIAD.denoise, perfect_head(TRIAD.denoise))
                done = integrate(predict, VP, name, grid, x, first=first, denoise=denoise)  # type: ignore[arg-type]
                counts[name, first, denoise] = done.nfe
    assert [counts["genie", f, d] for f in (None, "afs") for d in (False, True)] == [6, 7, 5, 6]
    assert [counts["ttm2", f, d] for f in (None, "afs") for d in (False, True)] == [18, 19, 15, 16]


def test_the_product_runs_the_network_once_with_tangents() -> None:
    """What `nfe` charges two calls for is one pass with dual numbers."""
    seen: list[bool] = []

    def denoise(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        seen.append(torch._C._functorch.is_functorch_wrapped_tensor(x))
        return TRIAD.denoise(x, sigma, label)

    integrate(predictor(denoise), VP, "ttm2", make_grid("power-t", 3, VP), starts(4))
    assert seen == [False, True] * 3


def test_the_analytic_first_step() -> None:
    """The step with eps = x/sqrt(1 + g^2) and no slope; the rest of the way is the method's."""
    grid, x = make_grid("power-t", 5, VP), starts()
    s, t = grid.sigma[:2].tolist()
    after = x + (t - s) * x / (1 + s * s) ** 0.5
    rest = custom_grid(grid.sigma[1:], VP)
    want = integrate(predictor(TRIAD.denoise), VP, "ttm2", rest, after).x
    found = integrate(predictor(TRIAD.denoise), VP, "ttm2", grid, x, first="afs").x
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


def test_the_step_to_zero_is_the_prediction() -> None:
    x = starts()
    grid = make_grid("power-t", 4, VP, final="zero")
    before = custom_grid(grid.sigma[:-1], VP)
    middle = integrate(predictor(TRIAD.denoise), VP, "ttm2", before, x).x
    want = TRIAD.denoise(middle, grid.sigma[-2].expand(len(x)))
    torch.testing.assert_close(integrate(predictor(TRIAD.denoise), VP, "ttm2", grid, x).x, want)


def test_encoding_and_decoding_come_back() -> None:
    """25 steps there and back: a tenth of DDIM's error, and nearer the true latents."""
    data = TRIAD.sample(64, torch.Generator().manual_seed(2)) / ALPHA_END
    fine = make_grid("power-t", 400, VP)
    latent = integrate(predictor(TRIAD.denoise), VP, "dpm-3", fine, data, reverse=True).x
    back, missed = {}, {}
    for name in ("ddim", "ttm2", "genie"):
        code = run(name, data, steps=25, reverse=True)
        missed[name] = rmse(code, latent)
        back[name] = rmse(run(name, code, steps=25), data)
    for name in ("ttm2", "genie"):
        assert back[name] < 0.1 * back["ddim"]
        assert missed[name] < 0.3 * missed["ddim"]


# --- guidance ---

LABEL = torch.arange(64) % 3


def guided(w: float = 2.0, **options: Any) -> Predictor:
    rule = compose([ClassifierFree(w, **options)], null_label=3)
    return predictor(TRIAD.denoise, perfect_head(TRIAD.denoise), label=LABEL, guidance=rule)


def test_the_heads_of_both_branches_are_mixed_as_their_predictions() -> None:
    x, sigma = starts() / 20, torch.tensor(2.5)
    derive, level, null = perfect_head(TRIAD.denoise), sigma.double().expand(64), torch.full_like(LABEL, 3)
    (d_c, k_c), (d_u, k_u) = derive(x, level, LABEL), derive(x, level, null)
    predict = guided(2.0)
    x0, slope = predict.derivative(x, sigma, exact=False)
    torch.testing.assert_close(x0, d_u + 2 * (d_c - d_u))
    torch.testing.assert_close(slope, k_u + 2 * (k_c - k_u))
    assert (k_c - k_u).abs().max() > 1e-3
    assert predict.nfe == 2


def test_outside_its_interval_guidance_costs_nothing() -> None:
    predict = guided(2.0, interval=(0.1, 1.0))
    x, level = starts() / 20, torch.tensor(2.5)
    plain = perfect_head(TRIAD.denoise)(x, level.double().expand(64), LABEL)
    for found, want in zip(predict.derivative(x, level, exact=False), plain):
        torch.testing.assert_close(found, want)
    assert predict.nfe == 1


def test_the_exact_derivative_is_that_of_the_guided_flow() -> None:
    """Cross term and all: the change of the guided eps along the guided flow, by differences."""
    x, sigma, h = starts() / 20, 2.5, 1e-4

    def eps(x: Tensor, sigma: float) -> Tensor:
        return (x - guided(3.0)(x, sigma)) / sigma

    ends = []
    for sign in (-1, 1):
        half = x + sign * h / 2 * eps(x, sigma)
        ends.append(eps(x + sign * h * eps(half, sigma + sign * h / 2), sigma + sign * h))
    predict = guided(3.0)
    _, slope = predict.derivative(x, sigma, exact=True)
    torch.testing.assert_close((ends[1] - ends[0]) / (2 * h), slope, rtol=1e-5, atol=1e-7)
    assert predict.nfe == 6
    _, mix = guided(3.0).derivative(x, sigma, exact=False)
    assert (mix - slope).abs().max() > 1e-3  # the term that mixing leaves out


def test_what_a_rule_remembers_is_no_dual_number() -> None:
    """Momentum moves on by one prediction a step, as it does for a solver that asks for no derivative."""

    def momentum() -> Predictor:
        rule = compose([Projected(3.0, momentum=-0.5)], null_label=3)
        return predictor(TRIAD.denoise, label=LABEL, guidance=rule)

    x = starts() / 20
    one, other = momentum(), momentum()
    for level in (2.5, 2.0):
        plain = one(x, level)
        found, _ = other.derivative(x, level, exact=True)
        torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)
    for a, b in zip(one.memory(), other.memory()):
        torch.testing.assert_close(a, b)


def test_without_a_head_there_is_nothing_to_ask() -> None:
    with pytest.raises(ValueError, match="without a head"):
        predictor(TRIAD.denoise).derivative(starts(), 2.0, exact=False)


@pytest.mark.parametrize("name", ["ttm2", "genie"])
def test_the_source_of_the_derivative_is_the_name(name: str) -> None:
    solver = build(name)
    assert isinstance(solver, Taylor2)
    assert solver.source == {"ttm2": "exact", "genie": "head"}[name]
    with pytest.raises(UserError, match="it has none"):
        build(name, {"source": "head"})


def test_a_callback_sees_the_predictions() -> None:
    seen: list[Tensor] = []
    run("genie", starts(3), steps=4, callback=lambda i, sigma, x, x0: seen.append(x0))
    assert [x0.shape for x0 in seen] == [(3, 2)] * 4
