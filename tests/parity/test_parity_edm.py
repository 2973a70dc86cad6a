"""Networks and samplers against EDM's own code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gentool import networks
from gentool.diffusion.grids import make_grid
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.processes import Edm
from gentool.diffusion.solvers.core import build
from gentool.diffusion.solvers.integrate import integrate
from gentool.networks.config import AdmUNet, SongUNet
from tests.parity.fixed import Given, close, fill, golden, told, waves

GOLDEN = golden("edm")
NETWORKS = {
    "ddpm++": SongUNet(channels=16, mult=(1, 2, 2), blocks=2, attention=(8,), augment=9),
    "ncsn++": SongUNet(
        channels=16,
        mult=(1, 2, 2),
        blocks=2,
        attention=(8,),
        augment=9,
        embedding="fourier",
        resample="fir",
        encoder="residual",
    ),
    "adm": AdmUNet(channels=64, mult=(1, 2, 2), blocks=1, attention=(8, 4), augment=9),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_what_edm_s_give_with_the_same_weights(name):
    net = fill(networks.build(NETWORKS[name], 3, 3, (16, 16), 5))
    label, c_noise = torch.tensor([0, 3]), torch.tensor([-1.3, 0.7], dtype=torch.float64)
    with torch.no_grad():
        out = net(waves((2, 3, 16, 16)), c_noise, label, waves((2, 9), 5000))
    close(told(out), GOLDEN[name])


def denoise(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
    return x / (1 + sigma.view(-1, 1) ** 2) + 0.1 * x.sin()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("edm_sampler", {}),
        ("edm_sampler, churn", {"s_churn": 2.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003}),
        ("ablation_sampler, alpha 0.5", {"alpha": 0.5}),
        ("ablation_sampler, alpha 1", {"alpha": 1.0}),
    ],
)
def test_samplers_end_where_edm_s_end(name, options):
    churned = [waves((2, 5), 100 * i) for i in range(6)]
    grid = make_grid("karras", 6, Edm())
    kept = [z for z, s in zip(churned, grid.sigma.tolist()) if 0.05 <= s <= 50]  # theirs draws at every step
    out = integrate(
        Predictor(denoise, dtype=torch.float64),
        Edm(),
        build("edm", options),
        grid,
        80 * waves((2, 5)),
        Given(*kept),
    )
    assert out.nfe == 11
    close(told(out.x), GOLDEN[name])
