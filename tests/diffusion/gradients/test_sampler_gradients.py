"""Gradients through the sampler: every solver of fixed steps, guidance with a memory, and what cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gentool.diffusion.config import VpProcess
from gentool.diffusion.gradients.rollout import Replay
from gentool.diffusion.grids import make_grid
from gentool.diffusion.guidance import build as guidance
from gentool.diffusion.guidance import catalog as rules
from gentool.diffusion.mixture import GaussianMixture
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.processes import build
from gentool.diffusion.solvers.catalog import SOLVERS
from gentool.diffusion.solvers.integrate import integrate
from gentool.diffusion.solvers.time_shift import TimeShift
from gentool.errors import UserError
from gentool.noise import Noise

VP = build(VpProcess())
TRIAD = GaussianMixture.triad()
FIXED = [name for name in SOLVERS if set(SOLVERS.get(name).needs) <= {"time"}]
ADAPTIVE = [name for name in SOLVERS if "adaptive" in SOLVERS.get(name).needs]
STEPS = 9


def gradient(solver: str, replay: Replay | None, spec: Any = None, **how: Any) -> tuple[Tensor, Tensor]:
    rule = guidance.build(rules.check(spec or {}), null_label=3, label_dropout=0.1, has_attention=False)
    predict = Predictor(
        TRIAD.denoise,
        label=torch.tensor([0, 1, 2]),
        guidance=rule,
        dtype=torch.float64,
        sigma_max=VP.sigma_max,
    )
    grid = make_grid(SOLVERS.get(solver).grid, STEPS, VP, t_max=0.7)
    z = torch.tensor([[0.4, -1.0], [1.3, 0.2], [-0.7, 0.8]], dtype=torch.float64, requires_grad=True)
    noise = Noise(0, range(3), (2,), dtype=torch.float64)
    result = integrate(predict, VP, solver, grid, z * grid.sigma[0], noise, replay=replay, **how)
    return result.x.detach(), torch.autograd.grad(result.x.sin().sum(), z)[0]


@pytest.mark.parametrize("solver", FIXED)
def test_every_solver_of_fixed_steps(solver: str) -> None:
    plain, ours = gradient(solver, None), gradient(solver, Replay("sqrt"))
    assert torch.equal(plain[0], ours[0])
    assert torch.allclose(plain[1], ours[1], rtol=1e-11, atol=1e-13)
    assert float(ours[1].abs().max()) > 0


@pytest.mark.parametrize(
    "spec",
    [
        {"cfg": {"scale": 2.0}},
        {"apg": {"scale": 3.0, "momentum": -0.5}},
        {"adaptive": {"scale": 2.0, "threshold": 0.9}},
        {"cfg": {"scale": 2.0, "interval": [0.3, 2.0], "rescale": 0.5}},
    ],
    ids=lambda spec: next(iter(spec)),
)
@pytest.mark.parametrize("keep", ["all", "sqrt", "log"])
def test_what_guidance_remembers_is_replayed(spec: dict[str, Any], keep: Any) -> None:
    """The momentum of `apg` carries a gradient from step to step; the decisions of `adaptive` are kept."""
    plain, ours = gradient("dpmpp-2m", None, spec), gradient("dpmpp-2m", Replay(keep), spec)
    assert torch.equal(plain[0], ours[0])
    assert torch.allclose(plain[1], ours[1], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("how", [{"first": "afs"}, {"time_shift": TimeShift(100, 50)}], ids=["afs", "shift"])
def test_variants_of_the_loop(how: dict[str, Any]) -> None:
    assert torch.allclose(gradient("ddim", None, **how)[1], gradient("ddim", Replay(), **how)[1], rtol=1e-11)


def test_weights_and_an_embedding_of_the_condition() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    embedding = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)

    def denoise(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        return net(torch.cat([x / (1 + sigma[:, None]), embedding, sigma.log()[:, None]], 1))

    asked = (embedding, net[0].weight)
    found = []
    for replay in (None, Replay("log", wrt=asked)):
        predict = Predictor(denoise, dtype=torch.float64)
        grid = make_grid("karras", 8, VP)
        x = torch.ones(3, 2, dtype=torch.float64) * grid.sigma[0]
        result = integrate(predict, VP, "edm", grid, x, Noise(0, range(3), (2,)), replay=replay)
        found.append(torch.autograd.grad(result.x.square().sum(), asked))
    for plain, ours in zip(*found, strict=True):
        assert torch.allclose(plain, ours, rtol=1e-11, atol=1e-13)


def test_a_sample_alone_has_the_gradient_it_has_in_a_batch() -> None:
    def of(rows: list[int]) -> Tensor:
        predict = Predictor(TRIAD.denoise, dtype=torch.float64)
        grid = make_grid("uniform-t", 6, VP)
        z = torch.tensor([[0.4, -1.0], [1.3, 0.2]], dtype=torch.float64)[rows].requires_grad_()
        noise = Noise(0, [5 + r for r in rows], (2,), dtype=torch.float64)
        x = integrate(predict, VP, "ddpm", grid, z * grid.sigma[0], noise, replay=Replay()).x
        return torch.autograd.grad(x.sin().sum(), z)[0]

    both = of([0, 1])
    assert torch.allclose(torch.cat([of([0]), of([1])]), both, rtol=1e-13)


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_a_solver_that_chooses_its_steps_is_refused(solver: str) -> None:
    with pytest.raises(UserError, match="chooses its own steps"):
        gradient(solver, Replay())


def test_callbacks_and_replay_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="callback"):
        gradient("ddim", Replay(), callback=lambda i, sigma, x, x0: None)
