"""Preconditionings: golden numbers, and one exact denoiser behind every one of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gentool.diffusion import precond as p
from gentool.diffusion.config import EdmPrecond, X0Precond
from gentool.diffusion.denoiser import Denoiser
from gentool.diffusion.mixture import GaussianMixture
from gentool.diffusion.processes import Cosine, Ddpm, Edm, Flow, Vp
from gentool.errors import UserError

SIGMA = torch.tensor([0.002, 0.1, 0.7, 5.0, 80.0], dtype=torch.float64)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_edm_golden() -> None:
    edm = p.Edm(0.5)
    table = torch.stack(tuple(edm(f64(0.5, 80.0))), 1)
    golden = [[0.5, 0.353553, 1.414214, -0.173287], [3.906e-5, 0.499990, 0.0124998, 1.095507]]
    torch.testing.assert_close(table, f64(*golden[0], *golden[1]).view(2, 4), rtol=5e-5, atol=5e-7)
    weight = edm(f64(0.5, 80.0)).c_out ** -2
    torch.testing.assert_close(weight, f64(8.0, 4.000156), rtol=1e-6, atol=0)


def test_edm_has_unit_input_and_target_variance() -> None:
    sd = 0.37
    c = p.Edm(sd)(SIGMA)
    torch.testing.assert_close(c.c_in**2 * (SIGMA**2 + sd**2), torch.ones(5, dtype=torch.float64))
    target = ((1 - c.c_skip) ** 2 * sd**2 + c.c_skip**2 * SIGMA**2) / c.c_out**2
    torch.testing.assert_close(target, torch.ones(5, dtype=torch.float64), rtol=1e-9, atol=0)


def test_iddpm_levels_golden_and_rounding() -> None:
    iddpm = p.Iddpm()
    at = iddpm.levels[[0, 1, 8, 500, 999, 1000]]
    torch.testing.assert_close(
        at, f64(20291.17, 641.662, 80.2037, 1.012390, 0.00642541, 0.0), rtol=1e-6, atol=0
    )
    u = iddpm.levels[500]
    assert iddpm(u.reshape(1)).c_noise.item() == 499
    assert iddpm.round_sigma(u.reshape(1) * 1.0001).item() == u.item()


def test_ve_and_vp_noise_inputs() -> None:
    torch.testing.assert_close(p.Ve()(SIGMA).c_noise, (SIGMA / 2).log())
    vp = Vp()
    torch.testing.assert_close(p.VpEps(vp)(vp.sigma(f64(0.25))).c_noise, f64(999 * 0.25))
    # a process without a VP time is told that of the linear-beta VP
    torch.testing.assert_close(p.VpEps(Edm())(SIGMA).c_noise, p.VpEps(vp)(SIGMA).c_noise)
    cosine = Cosine()
    torch.testing.assert_close(p.VpEps(cosine)(cosine.sigma(f64(0.5))).c_noise, f64(999 * 0.5))


def test_ddpm_networks_are_told_the_level_and_rounding_snaps_to_levels() -> None:
    ddpm = Ddpm()
    precond = p.VpEps(ddpm)
    levels = f64(0, 17, 500, 999)
    sigma = ddpm.sigma((levels + 1) / 1000)
    torch.testing.assert_close(precond(sigma).c_noise, levels, rtol=0, atol=1e-6)
    torch.testing.assert_close(precond.round_sigma(sigma * 1.0001), sigma, rtol=1e-12, atol=0)


def test_v_is_edm_of_unit_data_with_the_sign_turned() -> None:
    v, edm = p.V()(SIGMA), p.Edm(1.0)(SIGMA)
    for a, b in [(v.c_skip, edm.c_skip), (v.c_out, -edm.c_out), (v.c_in, edm.c_in)]:
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
    assert p.V(time_scale=1)(f64(1.0)).c_noise.item() == pytest.approx(0.5)


class Exact(torch.nn.Module):
    """The network whose every output is exact for a mixture, from the definition of its target."""

    def __init__(self, target: str, x: Tensor, sigma: Tensor, x0: Tensor) -> None:
        super().__init__()
        s = sigma.view(-1, 1)
        eps, alpha = (x - x0) / s, 1 / (1 + s**2).sqrt()
        sd2 = 0.25
        unit = (x0 - sd2 / (s**2 + sd2) * x) * (s**2 + sd2).sqrt() / (s * 0.5)
        self.out = {
            "eps": eps,
            "-eps": -eps,
            "x0": x0,
            "v": alpha * eps - alpha * s * x0,
            "flow": x0 - eps,
            "edm": unit,
            "eps+variance": torch.cat([eps, torch.full_like(eps, math.nan)], 1),
        }[target]

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None, augment: Tensor | None) -> Tensor:
        return self.out


@pytest.mark.parametrize(
    ("precond", "target"),
    [
        (p.Edm(0.5), "edm"),
        (p.VpEps(Vp()), "eps"),
        (p.Ve(), "-eps"),
        (p.Iddpm(), "eps+variance"),
        (p.V(), "v"),
        (p.Flow(), "flow"),
        (p.X0(0.5), "x0"),
    ],
    ids=lambda v: getattr(v, "name", v),
)
def test_every_preconditioning_of_the_exact_target_is_the_same_denoiser(
    precond: p.Precond, target: str
) -> None:
    mixture = GaussianMixture.triad()
    x = mixture.sample(5, torch.Generator().manual_seed(0)) * (1 + SIGMA.view(-1, 1))
    x0 = mixture.denoise(x, SIGMA)
    denoiser = Denoiser(Exact(target, x, SIGMA, x0), precond, Flow())
    torch.testing.assert_close(denoiser(x, SIGMA), x0, rtol=1e-10, atol=1e-10)


def test_sigma_data_is_measured_saved_with_the_weights_and_checked() -> None:
    g = torch.Generator().manual_seed(0)
    data = 0.3 + 0.7 * torch.randn(1000, 2, generator=g)
    measured = p.measure_sigma_data(data.split(128))
    assert measured == pytest.approx(data.double().std(correction=0).item(), rel=1e-9)
    precond = p.build(EdmPrecond(), Edm())
    assert precond.unmeasured
    precond.set_sigma_data(measured)
    other = p.build(X0Precond(), Edm())
    other.load_state_dict(precond.state_dict())
    assert other.sigma_data is not None
    assert other.sigma_data.item() == measured
    for bad in ([], [torch.tensor([math.nan])]):
        with pytest.raises(UserError):
            p.measure_sigma_data(bad)
    with pytest.raises(UserError, match="constant"):
        precond.set_sigma_data(p.measure_sigma_data([torch.ones(10)]))
