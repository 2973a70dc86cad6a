"""What a model computes does not depend on where: the same losses, weights and samples on an accelerator.

The accelerator is make-believe (`tests.device.far`): it refuses, as a GPU would, whatever was left on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from gentool.data import Batch, open_set, to_model
from gentool.diffusion.guidance.catalog import CATALOG
from gentool.diffusion.solvers.catalog import GRIDS, SOLVERS
from gentool.noise import Noise
from gentool.recipes import schema
from gentool.tasks.edit.inverter import Settings, build_inverter
from gentool.training.module import GenModule
from gentool.training.sampling import SampleRequest
from tests.conformance.test_families import CASES, DIGITS, MLP, batch_of, make
from tests.conformance.test_inversions import METHODS, PICTURES, asked, refusal
from tests.device.far import far_device


@pytest.fixture
def far() -> Iterator[torch.device]:
    with far_device() as device:
        yield device


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found.detach().cpu(), expected.detach(), rtol=tolerance, atol=tolerance)


def gradients(module: GenModule, batch: Batch) -> list[Tensor]:
    """The loss and each weight's gradient of one step, as it is called in training."""
    module.zero_grad()
    loss = module.train().try_step(Batch(*(values.to(module.device) for values in batch)))
    assert loss.device == module.device
    return [loss, *(p.grad.clone() for p in module.parameters() if p.grad is not None)]


def outcome(module: GenModule, **settings: object) -> Tensor:
    """What the model is for: samples, or its figures on held-out data."""
    module.eval()
    if not module.draws_samples:
        return torch.tensor(list(module.evaluate_model(open_set(module.recipe.data, "test")).values()))
    labels = torch.tensor([1, 0], device=module.device) if module.classes else None
    sample = module.recipe.sample.model_copy(update={"steps": 2, **settings})
    with torch.no_grad():
        x = module.draw(SampleRequest(3, range(2), labels, sample, device=module.device)).x
    assert x.device == module.device
    return x


def updated(module: GenModule) -> list[Tensor]:
    """The weights after an optimiser step on the gradients that are there, and their average."""
    found = module.configure_optimizers()
    for optimizer in found if isinstance(found, list) else [found]:
        optimizer.step()
    assert module.ema is not None
    module.on_train_start()
    module.end_step(4)
    return [*(p for p in module.parameters() if p.grad is not None), *module.ema.model_state().values()]


@pytest.mark.parametrize("case", CASES)
def test_a_family_computes_the_same_on_another_device(case: str, far: torch.device) -> None:
    """It is used on the CPU first, as `gentool train` looks at the data before the trainer moves the module."""
    module = make(case)
    module.recipe = module.recipe.model_copy(update={"ema": schema.Ema()})
    module.prepare_training()
    batch = batch_of(module, [0, 1, 2, 3])
    before = {name: value.clone() for name, value in module.state_dict().items()}
    samples, first = outcome(module), gradients(module, batch)
    module.load_state_dict(before)
    module.to(far)
    assert module.base is None or module.base.device == far
    close(outcome(module), samples)
    for found, wanted in zip(gradients(module, batch), first, strict=True):
        assert float((found.cpu() - wanted).norm()) <= 1e-3 * float(wanted.norm()) + 1e-6
    assert all(value.device == far and value.isfinite().all() for value in updated(module))
    assert all(
        value.isfinite().all() for value in module.released_state().values() if value.is_floating_point()
    )


MODELS = {
    "data": "edm vp",
    "velocity": "cld",
    "head": "genie",
    "variance": "edm variances",
}
"""Models that meet what solvers need."""
VARIANCES = f"{DIGITS}model: {{{MLP}, process: {{name: ddpm}}, loss: {{hybrid: 0.001}}}}"


@cache
def model_for(need: str) -> GenModule:
    """Two of a kind are one: tests move it there and back."""
    if need == "variance":
        with mock.patch.dict(CASES, {MODELS[need]: ("edm", VARIANCES)}):
            return make(MODELS[need])
    return make(MODELS[need])


def same_there(module: GenModule, far: torch.device, **settings: object) -> None:
    """Samples are those of the CPU."""
    expected = outcome(module.cpu(), **settings)
    close(outcome(module.to(far), **settings), expected)


@pytest.mark.parametrize("name", SOLVERS.names())
def test_every_solver_steps_on_another_device(name: str, far: torch.device) -> None:
    fitting = [model_for(need) for need in MODELS]
    fitting = [module for module in fitting if module.usable_solvers()[name] is None]
    assert fitting, name
    for module in fitting[:2]:
        rough = {"atol": 1.0, "rtol": 1.0} if "adaptive" in SOLVERS.get(name).needs else {}
        same_there(module, far, solver=name, options=rough, grid=None)


@pytest.mark.parametrize("grid", GRIDS.names())
def test_every_grid_is_walked_on_another_device(grid: str, far: torch.device) -> None:
    same_there(model_for("data"), far, solver="heun", grid=grid)


@pytest.mark.parametrize(
    "how",
    [{"afs": True}, {"denoise": True}, {"threshold": "dynamic"}, {"time_shift": {"window": 4, "cutoff": 1}}],
)
def test_what_is_done_to_the_steps_is_done_on_another_device(
    how: dict[str, object], far: torch.device
) -> None:
    same_there(model_for("data"), far, solver="ddim", **how)


@pytest.mark.parametrize("rule", [rule for rule in CATALOG if rule != "classifier"])
def test_every_guidance_rule_works_on_another_device(rule: str, far: torch.device) -> None:
    same_there(make("edm transformer"), far, guidance={rule: {"scale": 2.0}})


@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
def test_a_classifier_guides_on_another_device(solver: str, far: torch.device) -> None:
    module, judge, x = make("edm vp"), make("classifier of noisy states"), []
    settings = module.recipe.sample.model_copy(
        update={"steps": 2, "solver": solver, "guidance": {"classifier": {"scale": 2.0}}}
    )
    for device in (torch.device("cpu"), far):
        labels = torch.tensor([1, 0], device=device)
        request = SampleRequest(3, range(2), labels, settings, judge.to(device).guide(), device)
        with torch.no_grad():
            x.append(module.to(device).draw(request).x)
    close(x[1], x[0])


@pytest.mark.parametrize(
    ("case", "method"), [(c, m) for c in ("edm vp", "edm ddpm", "genie") for m in METHODS]
)
def test_pictures_are_inverted_on_another_device(case: str, method: Any, far: torch.device) -> None:
    assert case in PICTURES
    assert refusal(case, method) is None
    module, found = make(case), []
    batch = batch_of(module, [0, 1])
    for device in (torch.device("cpu"), far):
        inverter = build_inverter(module.to(device), method, asked(3), Settings(skip=0))
        x0 = to_model(batch.x).double().to(device)
        label, other = ((batch.label + k).remainder(10).to(device) for k in (0, 1))
        noise = Noise(0, range(2), x0.shape[1:], device, torch.float64)
        with torch.no_grad():
            found.append(inverter(x0, label, other, noise)[0])
    close(found[1], found[0])


def test_a_likelihood_is_the_same_on_another_device(far: torch.device) -> None:
    module = make("edm points")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.1)  # a smooth flow, in few steps
    batch, found = batch_of(module, [0, 1]), []
    for device in (torch.device("cpu"), far):
        noise = Noise(0, range(2), module.spec.shape, device)
        found.append(module.to(device).log_likelihood(batch.x.to(device), noise).log_prob)
    close(found[1], found[0], 1e-3)
