"""Learned variances against guided-diffusion's own code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gentool.diffusion.denoiser import Denoiser
from gentool.diffusion.grids import Grid
from gentool.diffusion.loss import DiffusionLoss, eps_weight
from gentool.diffusion.precond import VpEps
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.processes import Ddpm
from gentool.diffusion.solvers.integrate import integrate
from gentool.diffusion.times import Discrete
from gentool.diffusion.variational import hybrid
from tests.parity.fixed import Formula, Given, close, golden, waves

GOLDEN = golden("guided-diffusion")


def network(x: Tensor, n: Tensor) -> Tensor:
    return torch.cat([x.tanh() * (0.5 + n / 2000), 1.5 * (2 * x).sin()], 1)


def model(process: Ddpm) -> Denoiser:
    return Denoiser(Formula(network), VpEps(process).double(), process, variances=True).eval()


def test_ancestral_steps_with_learned_variances_end_where_theirs_end():
    process, expected = Ddpm(), GOLDEN["p_sample, learned variance"]
    denoise = model(process)
    t = (torch.tensor(expected["levels"][::-1], dtype=torch.float64) + 1) / 1000
    sigma = torch.cat([process.sigma(t), torch.zeros(1, dtype=torch.float64)])
    out = integrate(
        Predictor(
            lambda x, sigma, label: denoise(x, sigma, label),
            spread=denoise.with_variance,
            dtype=torch.float64,
        ),
        process,
        "ddpm-learned",
        Grid("theirs", torch.cat([t, torch.zeros(1, dtype=torch.float64)]), sigma),
        waves((2, 1, 2, 2), 50) / process.alpha(t[:1]),
        Given(*(waves((2, 1, 2, 2), 100 * i) for i in range(5))),
    )
    assert out.nfe == 5
    close(out.x.flatten(), expected["x0"])


@pytest.mark.parametrize("betas", ["linear", "cosine"])
def test_the_hybrid_loss_is_theirs(betas):
    """Levels 1, 50, 400, 999; at level 0 theirs has an approximate normal distribution."""
    process = Ddpm(betas=betas)
    loss = hybrid(DiffusionLoss(Discrete(process), eps_weight), process, 0.001)
    x0 = (waves((4, 1, 2, 2), 7) * 127.5).round() / 127.5
    u = (torch.tensor([[1.0], [50.0], [400.0], [999.0]], dtype=torch.float64) + 0.5) / 1000
    close(
        loss(model(process), x0, None, None, u, waves((4, 1, 2, 2), 30).unsqueeze(1)),
        GOLDEN[f"hybrid loss, {betas}"],
    )
