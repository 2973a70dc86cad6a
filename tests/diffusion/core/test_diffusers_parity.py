"""The discrete process and its predictions against diffusers' scheduler (float32 tables)."""

from __future__ import annotations

import pytest
import torch

from gentool.diffusion.convert import from_x0, per_sample, to_x0
from gentool.diffusion.processes import Ddpm

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.golden

LEVELS = (torch.arange(1000, dtype=torch.float64) + 1) / 1000


@pytest.mark.parametrize(
    ("theirs", "ours", "ends"),
    [
        ("linear", "linear", (1e-4, 0.02)),
        ("scaled_linear", "scaled-linear", (0.00085, 0.012)),
        ("squaredcos_cap_v2", "cosine", (1e-4, 0.02)),
    ],
)
def test_noise_levels(theirs: str, ours: str, ends: tuple[float, float]) -> None:
    scheduler = diffusers.DDPMScheduler(beta_schedule=theirs, beta_start=ends[0], beta_end=ends[1])
    process = Ddpm(betas=ours, beta_min=ends[0], beta_max=ends[1])
    # their last level of the cosine is 2.4e-9, a product of 1000 float32 numbers
    torch.testing.assert_close(
        process.alpha(LEVELS) ** 2, scheduler.alphas_cumprod.double(), rtol=2e-5, atol=1e-9
    )


def test_noising_and_v() -> None:
    scheduler, process = diffusers.DDPMScheduler(), Ddpm()
    g = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(4, 3, generator=g, dtype=torch.float64) for _ in range(2))
    level = torch.tensor([0, 100, 500, 999])
    t = LEVELS[level]
    x_t = per_sample(process.alpha(t), x0) * x0 + per_sample(process.std(t), x0) * eps
    torch.testing.assert_close(scheduler.add_noise(x0, eps, level), x_t, rtol=1e-5, atol=1e-6)
    v = scheduler.get_velocity(x0, eps, level)
    torch.testing.assert_close(from_x0("v", x0, x_t, process, t), v, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(to_x0("v", v, x_t, process, t), x0, rtol=1e-4, atol=1e-5)
