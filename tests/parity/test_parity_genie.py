"""Head, targets and samplers against GENIE's own code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gentool.diffusion.derivative import DerivativeHead, along_flow
from gentool.diffusion.grids import make_grid
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.processes import Vp
from gentool.diffusion.solvers.integrate import integrate
from gentool.networks.base import Features
from gentool.networks.config import Head
from gentool.networks.head import build_head
from tests.parity.fixed import Given, close, fill, golden, told, waves

GOLDEN = golden("genie")
VP = Vp()


def eps(x: Tensor, sigma: Tensor) -> Tensor:
    """The noise that a made-up network predicts, of x_t and t; here in the canonical state."""
    return (x * VP.alpha(VP.t_of_sigma(sigma)).view(-1, 1)).tanh() * (1 + VP.t_of_sigma(sigma).view(-1, 1))


def denoise(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
    return x - sigma.view(-1, 1) * eps(x, sigma)


def derive(x: Tensor, sigma: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
    x_t = x * VP.alpha(VP.t_of_sigma(sigma)).view(-1, 1)
    return denoise(x, sigma, label), 0.3 * x_t * eps(x, sigma) / (1 + sigma.view(-1, 1) ** 2)


def test_the_head_gives_what_genie_s_gives_with_the_same_weights():
    x, predicted = waves((2, 3, 16, 16)), waves((2, 3, 16, 16), 900)
    features = Features(x, waves((2, 16, 16, 16), 2000), waves((2, 64), 7000))
    head = DerivativeHead(fill(build_head(Head(normalise=True), (3, 16, 16), 3, features)))
    t = torch.tensor([0.01, 0.6], dtype=torch.float64)
    with torch.no_grad():
        out = head(x / VP.alpha(t).view(-1, 1, 1, 1), predicted, VP.sigma(t), features)
    close(told(out), GOLDEN["head"])


@pytest.mark.parametrize("mode", ["forward", "double-backward"])
def test_targets_are_genie_s(mode):
    t = 1e-3 + (1 - 1e-3) * (0.5 + 0.49 * waves((3,), 9))
    sigma = VP.sigma(t)
    x = waves((3, 4)) + sigma.view(-1, 1) * waves((3, 4), 50)
    _, slope = along_flow(eps, x, sigma, eps(x, sigma), mode)
    ours = sigma**2 * slope.square().sum(1)
    close(ours, GOLDEN["loss of a zero head: gamma^2 |d eps/d gamma|^2"])


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(("striding", "kappa"), [("quadratic", 2.0), ("linear", 1.0)])
@pytest.mark.parametrize(("solver", "theirs"), [("genie", "ttm2"), ("ddim", "ddim")])
def test_samplers_end_where_genie_s_end(solver, theirs, striding, kappa, ends):
    """With its analytic first step and denoising at the end, and with neither; its state is x_t."""
    grid = make_grid("power-t", 5, VP, final="t-min", kappa=kappa)
    out = integrate(
        Predictor(denoise, derive=derive, dtype=torch.float64),
        VP,
        solver,
        grid,
        waves((2, 5)) * VP.prior_std,
        Given(waves((2, 5))),
        first="afs" if ends else None,
        denoise=ends,
    )
    x = out.x if ends else out.x * VP.alpha(grid.t[-1])
    assert out.nfe == 5
    close(x, GOLDEN[f"{theirs} {striding}{' afs denoise' if ends else ''}"])
