"""Laws of the noise level: each inverse distribution function against its law, and stratification."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gentool.diffusion import loss_config as c
from gentool.diffusion.process import Process
from gentool.diffusion.processes import Ddpm, Edm, Flow, Trig, Ve, Vp
from gentool.diffusion.times import Times, build, uniforms

U = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
EDGES = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)

LAWS: list[tuple[c.TimesConfig, Process]] = [
    (c.LogNormalTimes(), Edm()),
    (c.LogitNormalTimes(), Flow()),
    (c.SplitLogNormalTimes(std_low=0.5, std_high=2.0), Edm()),
    (c.LogLogisticTimes(), Edm()),
    (c.LogUniformTimes(), Ve()),
    (c.UniformTimes(), Vp()),
    (c.UniformTimes(), Flow()),
    (c.DiscreteTimes(), Ddpm()),
    (c.ModeTimes(), Flow()),
    (c.CosineTimes(), Trig()),
    (c.InterpolatedCosineTimes(image_size=64, noise_low=64, noise_high=32), Edm()),
]


@pytest.mark.parametrize(("config", "process"), LAWS, ids=lambda v: v.name)
def test_every_law_is_monotone_positive_and_finite(config: c.TimesConfig, process: Process) -> None:
    law = build(config, process)
    sigma = law(U)
    assert sigma.dtype == torch.float64
    assert (sigma.diff() >= 0).all() or (sigma.diff() <= 0).all()
    assert (law(EDGES) > 0).all()
    assert law(EDGES).isfinite().all()
    if "normal" not in config.name:
        assert process.train_sigma_min * (1 - 1e-9) <= sigma.min()
        assert sigma.max() <= process.sigma_max * (1 + 1e-9)


def _cdf(law: Times, level: float) -> float:
    return (law(U) < level).double().mean().item()


def test_edm_and_v_put_the_mass_of_dpdms_table() -> None:
    edm, v = build(c.LogNormalTimes(), Edm()), build(c.UniformTimes(), Trig())  # dpdm.md 2.1
    assert [1 - _cdf(edm, s) for s in (1, 5, 20)] == pytest.approx([0.159, 0.0096, 0.0002], abs=6e-4)
    assert [1 - _cdf(v, s) for s in (1, 5, 20)] == pytest.approx([0.497, 0.120, 0.0249], abs=6e-4)


def test_log_normal_moments_and_split_widths() -> None:
    log = build(c.LogNormalTimes(mean=0.3, std=0.7), Edm())(U).log()
    assert (log.mean().item(), log.std().item()) == pytest.approx((0.3, 0.7), rel=1e-3)
    split = build(c.SplitLogNormalTimes(mean=0.3, std_low=0.5, std_high=2.0), Edm())(U).log() - 0.3
    below = split < 0
    assert below.double().mean().item() == pytest.approx(0.2, abs=1e-4)
    assert split[below].square().mean().sqrt().item() == pytest.approx(0.5, rel=1e-3)
    assert split[~below].square().mean().sqrt().item() == pytest.approx(2.0, rel=1e-3)


def test_log_logistic_is_its_distribution_between_the_ends() -> None:
    sigma = build(c.LogLogisticTimes(mean=-1.0, scale=0.5), Edm())(U)
    points = torch.stack([*sigma[[0, 50_000, -1]], *torch.tensor([0.002, 80.0], dtype=torch.float64)])
    cdf = torch.sigmoid((points.log() + 1) / 0.5)
    low, high = cdf[3], cdf[4]
    torch.testing.assert_close((cdf[:3] - low) / (high - low), U[[0, 50_000, -1]], rtol=0, atol=1e-10)


def test_skewed_flow_times_are_log_normal_noise_levels() -> None:
    # logit-normal t with t = sigma/(1 + sigma)
    sigma = build(c.LogitNormalTimes(mean=0.2, std=0.9), Flow())(U)
    logit = torch.logit(Flow().t_of_sigma(sigma))
    assert (logit.mean().item(), logit.std().item()) == pytest.approx((0.2, 0.9), rel=1e-3)


def test_mode_sampling_without_scale_is_uniform_in_flow_time() -> None:
    t = Flow().t_of_sigma(build(c.ModeTimes(scale=0.0), Flow())(U))
    assert t.mean().item() == pytest.approx(0.5, abs=1e-4)
    assert t.var().item() == pytest.approx(1 / 12, rel=1e-3)


def test_cosine_is_uniform_phase_and_cosmap() -> None:
    flow = Flow()
    t = flow.t_of_sigma(build(c.CosineTimes(), flow)(U))
    edges = torch.linspace(0.1, 0.9, 17, dtype=torch.float64)
    density = 2 / (math.pi * (1 - 2 * edges + 2 * edges**2))  # SD3's cosmap; the ends cut off 0.13 %
    found = torch.stack([((t - e).abs() < 0.01).double().mean() / 0.02 for e in edges])
    torch.testing.assert_close(found, density, rtol=5e-3, atol=0)


def test_interpolated_cosine_has_the_shifted_laws_at_its_ends() -> None:
    config = c.InterpolatedCosineTimes(image_size=64, noise_low=64, noise_high=32)
    law, plain = build(config, Edm()), build(c.CosineTimes(), Edm())
    shifted = build(c.CosineTimes(scale=2.0), Edm())
    for u, same in [(0.0, plain), (0.5, None), (1 - 1e-12, shifted)]:
        at = torch.tensor([u], dtype=torch.float64)
        expected = same(at) if same is not None else (plain(at) * shifted(at)).sqrt()
        torch.testing.assert_close(law(at), expected, rtol=1e-9, atol=0)


def test_discrete_levels_are_the_ddpm_levels_equally_often() -> None:
    ddpm = Ddpm(levels=10)
    sigma = build(c.DiscreteTimes(), ddpm)(U)
    levels, counts = torch.unique(sigma, return_counts=True)
    torch.testing.assert_close(levels, ddpm.sigma((torch.arange(10, dtype=torch.float64) + 1) / 10))
    assert counts.tolist() == [10_000] * 10


def _strata(parts: list[Tensor]) -> list[int]:
    u = torch.cat([p.flatten() for p in parts])
    return sorted((u * len(u)).floor().long().tolist())


def test_stratified_draws_fill_every_cell_of_the_global_batch_once() -> None:
    parts = [
        uniforms(6, 4, torch.Generator().manual_seed(r), stratified=True, rank=r, world=3) for r in range(3)
    ]
    assert _strata(parts) == list(range(72))
    # a sample's own draws lie in different quarters
    assert all(sorted((row * 4).floor().long().tolist()) == [0, 1, 2, 3] for row in torch.cat(parts))


def test_stratification_lowers_the_variance_of_the_mean_and_keeps_the_mean() -> None:
    def means(stratified: bool) -> Tensor:
        g = torch.Generator().manual_seed(0)
        return torch.stack([uniforms(32, 1, g, stratified=stratified).mean() for _ in range(400)])

    plain, even = means(False), means(True)
    assert even.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert even.var() < plain.var() / 100  # 1/n^2 below in theory, n = 32


def test_draws_come_from_the_generator_alone() -> None:
    first, again = (uniforms(5, 2, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.dtype == torch.float64
