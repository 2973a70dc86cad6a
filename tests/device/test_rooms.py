"""The rooms under the families give the CPU's figures on another device: points, metrics, attacks, privacy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from gentool.attacks.campaign import Campaign, victims
from gentool.attacks.defence import Purified
from gentool.attacks.options import choose
from gentool.attacks.summary import accuracies
from gentool.attacks.threat import Threat
from gentool.data import Batch
from gentool.diffusion.config import VpProcess
from gentool.diffusion.gradients.adjoint import continuous_adjoint, flow
from gentool.diffusion.gradients.reversible import Heun, reversible_heun
from gentool.diffusion.gradients.rollout import Replay
from gentool.diffusion.processes import build
from gentool.diffusion.purify import Purifier
from gentool.metrics import classifier
from gentool.metrics.catalog import METRICS
from gentool.metrics.evaluate import evaluate
from gentool.points.distances import chamfer, emd
from gentool.points.meshing import MeshOptions, mesh_of
from gentool.points.neighbours import ball_query, group, interpolate3
from gentool.points.poisson import gather, indicator, splat
from gentool.points.sampling import farthest_point_sample
from gentool.points.voxels import devoxelise, voxel_coordinates, voxelise
from gentool.privacy.gradients.engines import ENGINES
from gentool.privacy.plan import Plan
from gentool.privacy.randomness import Secrets
from gentool.training.microbatch import mean_in_parts
from gentool.training.private.step import PrivateStep
from gentool.transport.sinkhorn import Annealing, transport
from tests.conformance.test_families import batch_of, make
from tests.conformance.test_metrics import QUICK, digits, eyes_of, material
from tests.device.far import FarTensor
from tests.privacy.private_modules import drawn_module


def alike(found: Any, expected: Any, far: torch.device, tolerance: float = 1e-4) -> None:
    """Tensors of either, wherever in it they are: the first on the far device, with the values of the second."""
    pairs = list(zip(tree_leaves(found), tree_leaves(expected), strict=True))
    assert pairs
    for a, b in pairs:
        assert a.device == far
        torch.testing.assert_close(a.detach().cpu(), b.detach(), rtol=tolerance, atol=tolerance)


def cloud(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, generator=torch.Generator().manual_seed(seed))


def voxels(x: Tensor) -> Tensor:
    place = voxel_coordinates(x, 4)
    return devoxelise(voxelise(x, place, 4), place)


OPERATORS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "farthest points": lambda x, y: farthest_point_sample(x, 5),
    "balls": lambda x, y: group(x, ball_query(y, x, 0.5, 6)),
    "interpolation": lambda x, y: interpolate3(y, y, x),
    "voxels": lambda x, y: voxels(x),
    "chamfer": lambda x, y: chamfer(x.mT, y.mT),
    "approximate emd": lambda x, y: emd(x.mT, x.mT.flip(1).sqrt()),
    "exact emd": lambda x, y: emd(x.mT, x.mT.flip(1).sqrt(), "exact"),
    "entropic emd": lambda x, y: emd(x.mT, x.mT.flip(1).sqrt(), "sinkhorn"),
    "grids": lambda x, y: gather(splat(x.mT, x.mT, 4), y.mT),
    "indicator": lambda x, y: indicator(x.mT, x.mT - 0.5, 8),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_on_points_and_their_gradients(name: str, far: torch.device) -> None:
    x, y = cloud(2, 24), cloud(2, 8, seed=1)
    near, there = x.clone().requires_grad_(), x.to(far).requires_grad_()
    expected, found = OPERATORS[name](near, y), OPERATORS[name](there, y.to(far))
    alike(found, expected, far)
    if expected.requires_grad:
        expected.square().sum().backward()
        found.square().sum().backward()
        alike(there.grad, near.grad, far)


def test_meshes_of_clouds(far: torch.device) -> None:
    pytest.importorskip("skimage")
    normals = torch.nn.functional.normalize(cloud(1, 300)[0].T - 0.5, dim=1)
    options = MeshOptions(resolution=16, steps=2)
    expected, found = mesh_of(normals, options), mesh_of(normals.to(far), options)
    np.testing.assert_allclose(found.vertices, expected.vertices, atol=1e-4)
    assert (found.faces == expected.faces).all()


@pytest.mark.parametrize("name", METRICS.names())
def test_metrics(name: str, far: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a classifier of four steps, where one is trained there: rounding grows with the steps."""
    monkeypatch.setattr(classifier, "MAX_STEPS", 4)
    info = METRICS.get(name)
    sets = [material(info, digits(*span)) for span in ((0, 24), (24, 48), (48, 72))]
    options = {name: QUICK[name] | ({"epochs": 1} if name == "downstream" else {})} if name in QUICK else {}
    expected, found = (
        evaluate(*sets[:2], [name], eyes_of(info), held_out=sets[2], options=options, device=device).metrics
        for device in (torch.device("cpu"), far)
    )
    for figure, value in expected.items():
        assert found[figure] == pytest.approx(value, rel=1e-3, abs=1e-4), figure


def law(x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
    """E[x0 | x] of N(0, 1/4) data."""
    return x / (1 + 4 * sigma.square().view(-1, *[1] * (x.ndim - 1)))


PICTURES = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("replay", [None, Replay("all"), Replay("log", offload=True)])
@pytest.mark.parametrize("method", ["sde", "ode", "ancestral", "ld-sde"])
def test_purifiers_and_their_exact_gradients(method: Any, replay: Replay | None, far: torch.device) -> None:
    purifier = Purifier(law, build(VpProcess()), method, steps=4, replay=replay)
    near, there = PICTURES.clone().requires_grad_(), PICTURES.to(far).requires_grad_()
    expected, found = (purifier(x, range(3), 0) for x in (near, there))
    alike(found, expected, far)
    expected.square().sum().backward()
    found.square().sum().backward()
    alike(there.grad, near.grad, far)


def test_adjoint_and_reversible_gradients(far: torch.device) -> None:
    levels = torch.linspace(2.0, 0.1, 5).tolist()
    drift = flow(lambda x, sigma: law(x, torch.full((len(x),), float(sigma), dtype=x.dtype, device=x.device)))
    made = []
    for x in (PICTURES, PICTURES.to(far)):
        adjoint = continuous_adjoint(drift, levels, x, x.sin())
        leaf = x.clone().requires_grad_()
        reversible_heun(Heun(drift, levels), leaf).sum().backward()
        made.append((tree_leaves(adjoint), leaf.grad))
    alike(made[1], made[0], far)


@pytest.mark.parametrize("name", ["pgd", "apgd-ce", "apgd-dlr", "bpda", "transfer"])
def test_attacks(name: str, far: torch.device) -> None:
    attack = choose(name, iterations=3, eot=None if name == "transfer" else 2)
    weights = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    figures, pictures = [], []
    for device in (torch.device("cpu"), far):
        x, planes = PICTURES.float().to(device), weights.to(device)

        def logits(z: Tensor, planes: Tensor = planes) -> Tensor:
            return z.flatten(1) @ planes.T

        defence = Purified(Purifier(law, build(VpProcess()), "sde", steps=2), logits, calls=2)
        three = victims(attack, logits, defence, sigma=0.3, surrogate=defence)
        label = logits(2 * x - 1).argmax(1)
        records, hit = Campaign(attack, Threat("linf", 0.15), three, 2, seed=0).run(x, label, [0, 1, 2])
        figures.append(accuracies(records))
        pictures.append(hit)
    assert figures[1] == figures[0]
    alike(pictures[1], pictures[0], far)


@pytest.mark.parametrize(
    ("engine", "network"), [(e, n) for e in ENGINES for n in ("mlp", "transformer")] + [("layers", "u-net")]
)
def test_clipped_gradients_of_single_records(engine: str, network: str, far: torch.device) -> None:
    if engine == "opacus":
        pytest.importorskip("opacus")
    module, examples = drawn_module(network, draws=2)
    expected = ENGINES[engine](module, module.losses)(examples, 0.5, 2)
    module.to(far)
    found = ENGINES[engine](module, module.losses)({k: v.to(far) for k, v in examples.items()}, 0.5, 2)
    alike([found.total, found.norms, found.losses], [expected.total, expected.norms, expected.losses], far)


@pytest.mark.parametrize("secure", [False, True])
def test_private_steps_with_their_noise(secure: bool, far: torch.device) -> None:
    plan = Plan(0.5, 15, 7.5, 1.5, 0.2, 1e-5, None, 10)
    module, examples = drawn_module("mlp", draws=2)
    module.to(far)
    step = PrivateStep(
        plan,
        Secrets(0),
        engine=ENGINES["layers"](module, module.losses),
        physical_batch=4,
        secure=secure,
    )
    whole = step.take({k: v.to(far) for k, v in examples.items()}, 0)
    empty = step.take({}, 1)
    assert isinstance(whole.gradient, FarTensor)
    assert isinstance(empty.gradient, FarTensor)
    n = empty.gradient.numel()
    assert abs(float(empty.gradient.std()) * 7.5 / (1.5 * 0.2) - 1) < 4 / math.sqrt(2 * n)


def test_transport(far: torch.device) -> None:
    x, y = (torch.rand(6, 4, generator=torch.Generator().manual_seed(i)) for i in range(2))
    expected = transport(x, y, torch.cdist, Annealing(0.05))
    alike(transport(x.to(far), y.to(far), torch.cdist, Annealing(0.05)), expected, far)


def test_parts_of_a_batch_give_the_whole_gradient(far: torch.device) -> None:
    module = make("edm vp").to(far)
    weights = list(module.parameters())
    examples = module.try_examples(Batch(*(values.to(far) for values in batch_of(module, [0, 1, 2]))))
    whole = torch.autograd.grad(module.losses(examples).mean(), weights)
    parts = torch.autograd.grad(mean_in_parts(module.losses, examples, weights, 2), weights)
    alike(parts, [gradient.cpu() for gradient in whole], far)
