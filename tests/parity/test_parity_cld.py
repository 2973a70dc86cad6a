"""Process, losses, flow and solvers against CLD-SGM's own code; its velocity is ours times sqrt(M)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gentool import networks
from gentool.diffusion.denoiser import Denoiser
from gentool.diffusion.grids import make_grid
from gentool.diffusion.langevin.config import LangevinProcess
from gentool.diffusion.langevin.loss import LangevinLoss
from gentool.diffusion.langevin.precond import VelocityPrecond
from gentool.diffusion.langevin.process import Langevin
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.solvers.integrate import integrate
from gentool.diffusion.solvers.langevin import flow
from gentool.networks.config import SongUNet
from tests.parity.fixed import Formula, Given, close, fill, golden, told, waves

GOLDEN = golden("cld")
PROCESSES = {
    "default": Langevin(),
    "linear": Langevin(LangevinProcess(beta0=0.1, beta1=6.9, numerical_eps=1e-6, train_t_min=1e-3)),
}
ROOT_M = 0.5
TIMES = torch.tensor([1e-3, 0.1, 1.0], dtype=torch.float64)


def network(u: Tensor, log_t: Tensor) -> Tensor:
    x, v = u.chunk(2, dim=1)
    return (0.3 * x - 0.2 * v).tanh() * (0.5 + log_t.exp())


def model(process: Langevin, dsm: bool = False) -> Denoiser:
    return Denoiser(Formula(network), VelocityPrecond(process, velocity_known=dsm).double(), process).eval()


def state(u: Tensor) -> Tensor:
    x, v = u.chunk(2, dim=1)
    return torch.stack([x, v / ROOT_M], 1)


def test_the_network_gives_what_cld_s_gives_with_the_same_weights():
    config = SongUNet(
        channels=16,
        mult=(1, 2, 2),
        blocks=2,
        attention=(8,),
        embedding="fourier",
        resample="fir",
        encoder="residual",
    )
    net = fill(networks.build(config, 6, 3, (16, 16), 0))
    with torch.no_grad():
        out = net(waves((2, 6, 16, 16)), torch.tensor([0.01, 0.6], dtype=torch.float64).log())
    close(told(out), GOLDEN["network"])


@pytest.mark.parametrize("name", PROCESSES)
def test_the_transition_is_cld_s(name):
    """Relative, entry by entry; theirs has lost six digits at t = 1e-3."""
    found = PROCESSES[name].transition(TIMES)
    theirs = torch.tensor(GOLDEN[f"var {name}"], dtype=torch.float64)
    ours = torch.stack([found.xx, ROOT_M * found.xw, ROOT_M**2 * found.ww])
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=0)
    ell = torch.tensor(GOLDEN[f"ell {name}"], dtype=torch.float64)
    torch.testing.assert_close((found.xx / found.det).sqrt() / ROOT_M, ell, rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_probability_flow_is_cld_s(name):
    process = PROCESSES[name]
    u = state(waves((3, 4)))
    x0 = model(process)(u, process.sigma(TIMES))
    speed = process.rate(TIMES).view(-1, 1)
    dx, dw = flow(process, u, x0, TIMES).unbind(1)
    close(-torch.cat([speed * dx, ROOT_M * speed * dw], 1), GOLDEN[f"flow {name}"], rtol=1e-8)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("objective", ["hsm", "dsm"])
@pytest.mark.parametrize(("weight", "theirs"), [("unit", "reweightedv2"), ("likelihood", "likelihood")])
def test_losses_are_cld_s(name, objective, weight, theirs):
    process = PROCESSES[name]
    e_x, e_v = waves((3, 4), 20).chunk(2, dim=1)
    noise = [e_x, e_v] + ([waves((3, 2), 60)] if objective == "dsm" else [])
    loss = LangevinLoss(process, objective, weight)
    u = 0.5 + 0.49 * waves((3,), 9)
    ours = loss(
        model(process, objective == "dsm"),
        waves((3, 2), 7),
        None,
        None,
        u.unsqueeze(1),
        torch.stack(noise, 1).unsqueeze(1),
    )
    close(ours, GOLDEN[f"loss {objective} {theirs} {name}"], rtol=1e-8)


@pytest.mark.parametrize("solver", ["em", "sscs"])
@pytest.mark.parametrize(("striding", "rule"), [("quadratic", "quadratic-t"), ("linear", "uniform-t")])
def test_solvers_end_where_cld_s_end_without_noise(solver, striding, rule):
    """Six of its network calls, the last for a step that moves x by the velocity alone: five of ours."""
    process = PROCESSES["default"]
    denoise = model(process)
    out = integrate(
        Predictor(lambda x, sigma, label: denoise(x, sigma, label), dtype=torch.float64),
        process,
        {"em": "euler-maruyama"}.get(solver, solver),
        make_grid(rule, 6, process, final="zero"),
        state(waves((2, 6), 3)),
        Given(*[torch.zeros(2, 2, 3)] * 10),
    )
    assert out.nfe == 5
    close(out.x[:, 0], GOLDEN[f"{solver} {striding}"], rtol=1e-8)
