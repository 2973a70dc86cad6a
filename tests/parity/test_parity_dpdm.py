"""Network, losses of K draws and samplers against DPDM's own code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gentool import networks
from gentool.diffusion import denoiser, loss
from gentool.diffusion.grids import make_grid
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.processes import Edm
from gentool.diffusion.solvers.core import build
from gentool.diffusion.solvers.integrate import integrate
from gentool.families.dpdm.config import CONFIGS
from gentool.networks.config import SongUNet
from tests.parity.fixed import Formula, Given, close, fill, golden, told, waves

GOLDEN = golden("dpdm")


def test_the_network_with_a_label_table_gives_what_dpdm_s_gives():
    config = SongUNet(channels=16, mult=(1, 2), blocks=2, attention=(7,), label_embedding="table")
    net = fill(networks.build(config, 1, 1, (14, 14), 10))
    c_noise = torch.tensor([0.1, -0.9], dtype=torch.float64)
    with torch.no_grad():
        out = net(waves((2, 1, 14, 14)), c_noise, torch.tensor([3, 10]))
    close(told(out), GOLDEN["network"])


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_of_four_draws_are_dpdm_s(name):
    model = denoiser.build(CONFIGS[name], lambda factor: Formula(lambda x, c: (0.8 * x + 0.01 * c).tanh()))
    u, noise = 0.5 + 0.49 * waves((2, 4)), waves((2, 4, 3), 40)
    ours = loss.build(CONFIGS[name], model.double())(model, waves((2, 3)), None, None, u, noise)
    close(ours, GOLDEN[f"loss {name}"])


def denoise(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
    return x / (1 + sigma.view(-1, 1) ** 2) + 0.1 * x.sin()


@pytest.mark.parametrize(
    ("name", "solver", "options", "first"),
    [
        ("stochastic ddim", "sddim", {}, 1),
        ("edm_sampler, churn 4", "edm", {"s_churn": 4.0, "max_gamma": 1.0}, 0),
    ],
)
def test_samplers_end_where_dpdm_s_end(name, solver, options, first):
    noise = Given(*(waves((2, 5), 100 * (first + i)) for i in range(6)))
    out = integrate(
        Predictor(denoise, dtype=torch.float64),
        Edm(),
        build(solver, options),
        make_grid("karras", 6, Edm()),
        80 * waves((2, 5)),
        noise,
    )
    close(told(out.x), GOLDEN[name])
