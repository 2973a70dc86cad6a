"""Forward processes: golden numbers of the field, inverses, and derivatives against autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gentool.diffusion import config as c
from gentool.diffusion.process import Process
from gentool.diffusion.processes import Cosine, Ddpm, Flow, Trig, Vp, build

CONFIGS = [
    c.EdmProcess(),
    c.VeProcess(),
    c.VpProcess(),
    c.DdpmProcess(),
    c.DdpmProcess(betas="scaled-linear", beta_min=0.00085, beta_max=0.012),
    c.DdpmProcess(betas="cosine"),
    c.CosineProcess(),
    c.TrigProcess(),
    c.FlowProcess(),
]


@pytest.fixture(params=CONFIGS, ids=lambda config: f"{config.name}-{getattr(config, 'betas', '')}".strip("-"))
def process(request: pytest.FixtureRequest) -> Process:
    return build(request.param)


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def times(process: Process, count: int = 37) -> Tensor:
    # not a divisor of the discrete levels: times fall inside their segments, where derivatives exist
    return torch.linspace(process.t_min, process.t_max, count + 2, dtype=torch.float64)[1:-1]


def test_sigma_is_increasing_and_its_inverse_returns_the_time(process: Process) -> None:
    t = times(process)
    assert (process.sigma(t).diff() > 0).all()
    torch.testing.assert_close(process.t_of_sigma(process.sigma(t)), t, rtol=1e-10, atol=0)


def test_derivatives_agree_with_autograd(process: Process) -> None:
    t = times(process).requires_grad_()
    for value, derivative in [
        (process.alpha(t).log(), process.dlog_alpha),
        (process.alpha(t), process.dalpha),
        (process.sigma(t), process.dsigma),
        (process.std(t), process.dstd),
    ]:
        (exact,) = torch.autograd.grad(value.sum(), t) if value.requires_grad else (torch.zeros_like(t),)
        torch.testing.assert_close(derivative(t), exact, rtol=1e-8, atol=1e-12)


def test_std_is_alpha_sigma_and_variance_is_preserved_where_promised(process: Process) -> None:
    t = times(process)
    torch.testing.assert_close(process.std(t), process.alpha(t) * process.sigma(t), rtol=1e-10, atol=0)
    total = process.alpha(t) ** 2 + process.std(t) ** 2
    if process.variance_preserving:
        torch.testing.assert_close(total, torch.ones_like(t), rtol=1e-12, atol=0)
    else:
        assert (total - 1).abs().max() > 1e-3


def test_g2_is_that_of_the_forward_sde(process: Process) -> None:
    t = times(process).requires_grad_()
    variance = process.std(t) ** 2
    (growth,) = torch.autograd.grad(variance.sum(), t)
    torch.testing.assert_close(
        process.g2(t), growth - 2 * process.dlog_alpha(t) * variance, rtol=1e-7, atol=1e-9
    )


def test_range_ends(process: Process) -> None:
    assert 0 < process.train_sigma_min <= process.sigma_min < process.sigma_max < math.inf
    assert process.prior_std == pytest.approx(
        math.hypot(1, process.sigma_max) if process.variance_preserving else process.sigma_max, rel=1e-9
    )


def test_vp_golden() -> None:
    vp = Vp()
    t = f64(1e-5, 1e-3, 0.1, 0.5, 1)
    golden = f64(0.00100050, 0.0104860, 0.340177, 3.412918, 152.167)
    torch.testing.assert_close(vp.sigma(t), golden, rtol=5e-6, atol=0)
    torch.testing.assert_close(vp.t_of_sigma(vp.sigma(t)), t, rtol=1e-10, atol=0)
    assert (vp.train_sigma_min, vp.sigma_min) == pytest.approx((0.00100050, 0.0104860), rel=5e-6)
    # genie.md 8: alpha, std, sigma, dt/dsigma
    t = f64(0.001, 0.1, 0.25, 0.5, 0.75, 1)
    table = [
        (vp.alpha(t), [0.9999450265, 0.9467217988, 0.7236571851, 0.2811828808, 0.0586635030, 0.0065715865]),
        (vp.std(t), [0.0104854163, 0.3220525355, 0.6901596036, 0.9596542021, 0.9982778137, 0.9999784069]),
        (vp.sigma(t), [0.01048599, 0.34017653, 0.95371070, 3.41291831, 17.01701676, 152.16697028]),
        (1 / vp.dsigma(t), [0.17489308, 0.29176474, 0.19682323, 0.05369917, 0.00779534, 0.00065714]),
    ]
    for value, expected in table:
        torch.testing.assert_close(value, f64(*expected), rtol=1e-5, atol=1e-9)


def test_vp_keeps_its_digits_near_data_even_in_float32() -> None:
    vp = Vp()
    exact = vp.std(f64(1e-5))
    assert exact.item() == pytest.approx(1.0005e-3, rel=1e-4)
    torch.testing.assert_close(vp.std(torch.tensor([1e-5])).double(), exact, rtol=1e-6, atol=0)


def test_ddpm_golden_and_close_to_vp() -> None:
    ddpm = Ddpm()
    levels = (f64(0, 499, 999) + 1) / 1000
    torch.testing.assert_close(ddpm.alpha(levels) ** 2, f64(0.9999, 0.0785872, 4.03583e-5), rtol=2e-6, atol=0)
    assert ddpm.sigma_max == pytest.approx(157.407, rel=3e-6)
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    assert (ddpm.alpha(t) - Vp().alpha(t)).abs().max() < 1.2e-3


def test_ddpm_levels_are_exact_at_every_level() -> None:
    ddpm = Ddpm()
    bars = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    t = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    torch.testing.assert_close(ddpm.alpha(t) ** 2, bars, rtol=1e-12, atol=0)
    torch.testing.assert_close(ddpm.t_of_sigma((1 / bars - 1).sqrt()), t, rtol=1e-9, atol=0)


def test_ddpm_slopes_at_a_level_are_those_of_the_segment_that_starts_there() -> None:
    ddpm = Ddpm(levels=49)  # 49 (1/49) < 1 in floating point
    t = (torch.arange(48, dtype=torch.float64) + 1) / 49
    slopes = 0.5 * torch.log1p(-torch.linspace(1e-4, 0.02, 49, dtype=torch.float64))[1:] * 49
    torch.testing.assert_close(ddpm.dlog_alpha(t), slopes, rtol=1e-9, atol=0)


def test_discrete_cosine_clips_its_last_beta() -> None:
    last, before = Ddpm(betas="cosine").alpha(f64(1.0, 0.999)) ** 2
    assert (1 - last / before).item() == pytest.approx(0.999, rel=1e-9)


def test_cosine_is_the_limit_of_its_discrete_form() -> None:
    t = torch.linspace(0.01, 0.95, 50, dtype=torch.float64)
    many = Ddpm(levels=20_000, betas="cosine")
    assert (many.alpha(t) - Cosine().alpha(t)).abs().max() < 1e-6


def test_trig_golden() -> None:
    trig = Trig()  # dpdm.md 2.1
    assert (trig.t_min, trig.t_max) == pytest.approx((9.571184e-4, 0.99292808), rel=1e-7)
    assert (trig.sigma_min, trig.sigma_max) == pytest.approx((1.5034e-3, 90.0171), rel=1e-4)
    assert trig.sigma(f64(0.5)).item() == pytest.approx(1, rel=1e-15)


def test_flow_is_the_straight_path_with_noise_at_one() -> None:
    flow, t = Flow(), f64(0.25, 0.8)
    torch.testing.assert_close(flow.alpha(t) + flow.std(t), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(flow.sigma(t), t / (1 - t))
