"""Which models can take a real picture apart and put it together again: each family either does, or says why not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gentool.data import to_model
from gentool.errors import UserError
from gentool.noise import Noise
from gentool.recipes.schema import Sample
from gentool.tasks.edit.inverter import Method, Settings, build_inverter
from gentool.training.module import GenModule
from tests.conformance.test_families import CASES, batch_of, make

METHODS: tuple[Method, ...] = ("ddpm-inversion", "ddim-inversion")
REFUSED = {
    "cld": "a picture has no velocity",
    "edm points": "edits are of pictures; this model makes vector data",
    "pfgmpp ddpm-inversion": "adds no Gaussian noise: take --method ddim-inversion",
}
"""Why, by family, case, or family and method; of what is no diffusion model, that it is none."""
TAKEN = ("edm", "dpdm", "pfgmpp", "genie")
PICTURES = [case for case in CASES if CASES[case][0] in TAKEN and case != "edm points"]


def asked(steps: int, threshold: str = "none") -> Sample:
    return Sample(solver="ddim", steps=steps, threshold=threshold)


def refusal(case: str, method: Method) -> str | None:
    family = CASES[case][0]
    if family not in (*TAKEN, "cld"):
        return f"a run of the family {family} is no denoiser to invert"
    return REFUSED.get(case) or REFUSED.get(family) or REFUSED.get(f"{family} {method}")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_every_family_is_taken_or_refused_with_the_reason(case: str, method: Method) -> None:
    module, words = make(case), refusal(case, method)
    if words is None:
        build_inverter(module, method, asked(4), Settings())
        return
    with pytest.raises(UserError) as caught:
        build_inverter(module, method, asked(4), Settings())
    assert words in caught.value.message


def turned(
    module: GenModule, method: Method, steps: int, *, threshold: str = "none", edit: bool = False
) -> tuple[Tensor, Tensor]:
    """Pictures, and what becomes of them under their own labels; under others where `edit`."""
    inverter = build_inverter(module, method, asked(steps, threshold), Settings(skip=0))
    batch = batch_of(module, [0, 1, 2])
    x0 = to_model(batch.x).double()
    label = batch.label if module.classes else None
    other = (batch.label + 1) % 10 if edit else label
    with torch.no_grad():
        found, _ = inverter(x0, label, other, Noise(0, range(3), x0.shape[1:], dtype=torch.float64))
    return x0, found


@pytest.mark.parametrize("case", [case for case in PICTURES if refusal(case, "ddpm-inversion") is None])
def test_ddpm_inversion_restores_every_familys_pictures(case: str) -> None:
    """To rounding, however few the steps and whatever the network says; thresholds, which are part of it, too."""
    module = make(case)
    for threshold in ("none", "static", "dynamic"):
        x0, found = turned(module, "ddpm-inversion", 5, threshold=threshold)
        torch.testing.assert_close(found, x0, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", PICTURES)
def test_ddim_inversion_comes_nearer_with_the_steps(case: str) -> None:
    module = make(case)
    errors = []
    for steps in (10, 80):
        x0, found = turned(module, "ddim-inversion", steps)
        errors.append(float((found - x0).square().mean().sqrt()))
    untrained = max(errors) < 1e-12  # a base whose last layer is zero: straight lines, there and back
    assert untrained or errors[1] < 0.6 * errors[0]


LABELLED = [
    (case, method)
    for case in PICTURES
    for method in METHODS
    if "conditional: true" in CASES[case][1] and refusal(case, method) is None
]


@pytest.mark.parametrize(("case", "method"), LABELLED)
def test_another_label_changes_every_conditional_familys_pictures(case: str, method: Method) -> None:
    module = make(case)
    same, other = (turned(module, method, 10, edit=edit)[1] for edit in (False, True))
    assert (other - same).abs().max() > 1e-4
