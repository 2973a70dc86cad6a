"""End values and output variances known in closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from solver_cases import EDM, VP, Ddpm, exact, gaussian
from torch import Tensor

from gentool.diffusion.grids import Grid, custom_grid, make_grid
from gentool.diffusion.process import Process
from gentool.diffusion.solvers.core import build
from gentool.diffusion.solvers.integrate import integrate
from gentool.noise import Noise

KEEP = {"final_order": "keep"}

# data N(0, 0.25), x_1 = 1, t 1 -> 1e-3, N = 10: uniform log-SNR, uniform t, quadratic t
END_VALUES = [
    ("ddim", {}, 0.3936467576, 0.3743710455, 0.4259787031),
    ("edm", {}, 0.5748234866, 0.5352383410, 0.5265635141),
    ("deis-rhork", {"tableau": "rk4"}, 0.5038249822, 0.5000889920, 0.5009365832),
    ("dpm-2", {}, 0.5333935281, 0.5833113014, 0.5153573405),
    ("dpm-3", {}, 0.5010443612, 0.4820427491, 0.4996961715),
    ("dpmpp-2s", {}, 0.4767317404, 0.4380430538, 0.4874193807),
    ("dpmpp-2m", KEEP, 0.5164577455, 0.6875418571, 0.5487350078),
    ("dpmpp-3m", KEEP, 0.5320064150, 0.8602385286, 0.4724688694),
    ("dpmpp-3m-exact", KEEP, 0.5269612575, 0.8783519564, 0.4187388553),
    ("deis-tab", {"order": 2}, 0.4408714080, 0.4423525273, 0.4712661157),
    ("deis-tab", {"order": 4}, 0.4748048043, 0.4887658923, 0.4922946683),
    ("deis-rhoab", {"order": 4}, 0.4384036957, 0.4663919368, 0.4785809538),
    ("ipndm", {}, 0.5202562928, 0.4901173108, 0.5088535832),
    ("pndm", {"start": "s", "order": 2}, 0.4753503086, 0.4431680600, 0.4888788658),
    ("pndm", {}, 0.5204901124, 0.4899677682, 0.5103828310),
    ("unipc", {"order": 2, **KEEP}, 0.5221672107, 0.6987128250, 0.5526667376),
    ("unipc", {"order": 3, **KEEP}, 0.5055679207, 0.8779385969, 0.4044583531),
    ("ghvb", {"order": 1.8}, 0.4662853514, 0.4348881241, 0.4838368976),
    ("ghvb", {"order": 2.8}, 0.5043656876, 0.4701156226, 0.5051392970),
]


@pytest.mark.parametrize("row", END_VALUES, ids=[f"{n}-{list(o.values())}" for n, o, *_ in END_VALUES])
def test_end_values_on_gaussian_data_to_all_digits(row: tuple, vp: VP) -> None:
    name, options, *wanted = row
    alpha = vp.alpha(torch.tensor([vp.t_max, vp.t_min], dtype=torch.float64))
    for grid, want in zip(("log-snr", "uniform-t", "power-t"), wanted):
        x = torch.ones(1, 1, dtype=torch.float64) / alpha[0]
        result = integrate(exact(gaussian(0.5)), vp, build(name, options), make_grid(grid, 10, vp), x)
        assert float(result.x * alpha[1]) == pytest.approx(want, abs=6e-11), grid


@pytest.mark.parametrize(
    ("steps", "std"), [(5, 1.257886), (9, 0.639060), (18, 0.527625), (40, 0.504877), (100, 0.500720)]
)
def test_output_std_of_edm_on_gaussian_data(steps: int, std: float, edm: EDM) -> None:
    x = torch.full((1, 1), 80.0, dtype=torch.float64)
    result = integrate(exact(gaussian(0.5)), edm, "edm", make_grid("karras", steps, edm), x)
    assert float(result.x) == pytest.approx(std, abs=6e-7)
    assert result.nfe == 2 * steps - 1


def test_output_std_of_ddim_on_gaussian_data(edm: EDM) -> None:
    x = torch.full((1, 1), 80.0, dtype=torch.float64)
    result = integrate(exact(gaussian(0.5)), edm, "ddim", make_grid("karras", 18, edm), x)
    assert float(result.x) == pytest.approx(0.423031, abs=6e-7)


class Impulses(Noise):
    """The k-th draw is the k-th unit vector: on Gaussian data with x in the span, the output's norm is its
    std, exactly."""

    def __init__(self, size: int) -> None:
        super().__init__(0, [0], (size,))
        self.drawn = 0

    def normal(self, stream: str, step: int = 0) -> Tensor:
        self.drawn += 1
        out = torch.zeros(1, *self.shape, dtype=torch.float64)
        out[0, self.drawn] = 1
        return out

    def increment(self, stream: str, a: float, b: float, depth: int = 12) -> Tensor:
        assert 0 <= a < b <= 1
        return self.normal(stream)


def output_std(process: Process, name: str, options: dict[str, Any], grid: Grid, start_std: float) -> float:
    noise = Impulses(2 * grid.steps + 2)
    x = torch.zeros(1, *noise.shape, dtype=torch.float64)
    x[0, 0] = start_std
    out = integrate(exact(gaussian(0.5)), process, build(name, options), grid, x, noise).x
    return float(out.norm())


STEPS = (10, 50, 250, 1000)


def ddpm_grid(ddpm: Ddpm, steps: int) -> Grid:
    """Levels round(linspace(0, 999, N)) and then alpha = 1."""
    return make_grid("linspace", steps, ddpm)


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("ddpm", {}, (0.32284, 0.44319, 0.48581, 0.49611)),
        ("ddim", {"eta": 1.0}, (0.32284, 0.44319, 0.48581, 0.49611)),
        ("ddpm", {"variance": "large"}, (0.59877, 0.51757, 0.50333, 0.50075)),
        ("ddim", {"eta": 0.5}, (0.35508, 0.46606, 0.49246, 0.49798)),
        ("ddim", {}, (0.36161, 0.47192, 0.49427, 0.49850)),
    ],
)
def test_output_std_of_discrete_ancestral_sampling(
    name: str, options: dict[str, Any], wanted: tuple[float, ...], ddpm: Ddpm
) -> None:
    for steps, want in zip(STEPS, wanted):
        # x_T has unit variance in the original variable
        start = 1 / float(ddpm.alpha(torch.tensor(1.0, dtype=torch.float64)))
        assert output_std(ddpm, name, options, ddpm_grid(ddpm, steps), start) == pytest.approx(want, abs=6e-6)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_a_temperature_scales_the_noise_of_steps_alone(variance: str, ddpm: Ddpm) -> None:
    """On Gaussian data var(T) = var(0) + T^2 (var(1) - var(0)), and 1 is the same sampler bit for bit."""

    def variance_at(**options: float) -> float:
        return output_std(ddpm, "ddpm", {"variance": variance, **options}, ddpm_grid(ddpm, 20), 1.0) ** 2

    cold, usual = variance_at(temperature=0.0), variance_at()
    assert variance_at(temperature=1.0) == usual
    for t in (0.5, 0.9, 1.5):
        assert variance_at(temperature=t) == pytest.approx(cold + t**2 * (usual - cold), rel=1e-9)
    assert cold < 0.5 * usual


@pytest.mark.parametrize(
    ("name", "grid", "wanted"),
    [
        ("euler-maruyama", "uniform-t", (0.57211, 0.50819, 0.50155, 0.50044)),
        ("dpmpp-sde", "log-snr", (0.33388, 0.45579, 0.49065, 0.49770)),
        ("dpmpp-2m-sde", "log-snr", (0.51868, 0.50306, 0.50020, 0.50009)),
    ],
)
def test_output_std_of_continuous_stochastic_solvers(
    name: str, grid: str, wanted: tuple[float, ...], vp: VP
) -> None:
    alpha = vp.alpha(torch.tensor([vp.t_max, vp.t_min], dtype=torch.float64)).tolist()
    options = KEEP if name == "dpmpp-2m-sde" else {}
    for steps, want in zip(STEPS, wanted):
        got = output_std(vp, name, options, make_grid(grid, steps, vp), 1 / alpha[0]) * alpha[1]
        assert got == pytest.approx(want, abs=6e-6)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sddim", {}),
        ("dpmpp-3m-sde", {}),
        ("dpmpp-2s-sde", {}),
        ("pc", {}),
        ("pc", {"predictor": "euler-maruyama", "corrector_steps": 2}),
        ("edm", {"s_churn": 40.0}),
    ],
)
def test_other_stochastic_solvers_converge_to_the_data(name: str, options: dict[str, Any], vp: VP) -> None:
    """20 000 numbers: the standard error of the std is 0.0025."""
    steps = 200
    alpha = vp.alpha(torch.tensor([vp.t_max, vp.t_min], dtype=torch.float64))
    noise = Noise(3, range(4), (5000,))
    x = noise.normal("prior").double() / alpha[0]
    result = integrate(
        exact(gaussian(0.5)), vp, build(name, options), make_grid("log-snr", steps, vp), x, noise
    )
    std = float((result.x * alpha[1]).std())
    assert std == pytest.approx(0.50008, abs=3 * 0.50008 / math.sqrt(2 * 20_000) + 0.01)


def test_langevin_correctors_alone_pull_a_wrong_state_towards_the_marginal(vp: VP) -> None:
    """Started 1.5 times too wide at one level, more corrector steps bring the width closer to the
    marginal's."""
    level = 1.0
    width = math.sqrt(0.25 + level**2)
    grid = custom_grid(torch.tensor([level, 0.999], dtype=torch.float64), vp)
    errors = []
    for count in (1, 20, 100):
        noise = Noise(0, range(8), (2000,))
        x = 1.5 * width * noise.normal("prior").double()
        out = integrate(exact(gaussian(0.5)), vp, build("pc", {"corrector_steps": count}), grid, x, noise).x
        errors.append(abs(float(out.std()) - width))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
