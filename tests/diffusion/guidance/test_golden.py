"""Parity with diffusers' guiders on the same raw predictions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gentool.diffusion.guidance.classifier_free import ClassifierFree, Projected
from gentool.diffusion.guidance.compose import PERTURBED, Rule, compose
from gentool.diffusion.guidance.perturbed import Perturbed
from gentool.diffusion.predictor import Predictor

pytestmark = pytest.mark.golden
guiders = pytest.importorskip("diffusers.guiders")

NULL = 1
SHAPE = (4, 3, 8, 8)


def predictions(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Labelled, unlabelled, perturbed."""
    generator = torch.Generator().manual_seed(seed)
    labelled, null, perturbed = torch.randn((3, *SHAPE), generator=generator, dtype=torch.float64)
    return labelled, null, perturbed


class Ours:
    """Our rules on given predictions; one memory for all calls."""

    def __init__(self, *rules: Rule) -> None:
        self.given = predictions(0)

        def network(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
            assert label is not None
            labelled, null, _ = (torch.cat([d, d])[: len(x)] for d in self.given)
            return torch.where((label == NULL)[:, None, None, None], null, labelled)

        self.predict = Predictor(
            network,
            variants={PERTURBED: lambda x, sigma, label: self.given[2]},
            guidance=compose(rules, NULL),
            label=torch.zeros(4, dtype=torch.long),
            dtype=torch.float64,
        )

    def __call__(self, given: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        self.given = given
        return self.predict(torch.zeros(SHAPE, dtype=torch.float64), 1.0)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_cfg(rescale: float) -> None:
    labelled, null, _ = predictions(1)
    theirs = guiders.ClassifierFreeGuidance(guidance_scale=3.5, guidance_rescale=rescale)
    torch.testing.assert_close(
        Ours(ClassifierFree(3.5, rescale=rescale))(predictions(1)),
        theirs.forward(labelled, null).pred,
        rtol=0,
        atol=1e-12,
    )


def test_apg_in_its_papers_formulation() -> None:
    """Their scale is w - 1; three calls share one momentum."""
    theirs = guiders.AdaptiveProjectedGuidance(
        guidance_scale=5.0,
        adaptive_projected_guidance_momentum=-0.5,
        adaptive_projected_guidance_rescale=9.0,
        eta=0.3,
        use_original_formulation=True,
    )
    theirs.momentum_buffer = guiders.adaptive_projected_guidance.MomentumBuffer(-0.5)
    ours = Ours(Projected(6.0, eta=0.3, momentum=-0.5, radius=9.0))
    for seed in (1, 2, 3):
        labelled, null, _ = predictions(seed)
        torch.testing.assert_close(
            ours(predictions(seed)), theirs.forward(labelled, null).pred, rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("with_cfg", [False, True])
def test_pag_in_its_papers_formulation(with_cfg: bool) -> None:
    """Their scales are ours - 1."""
    labelled, null, perturbed = predictions(1)
    theirs = guiders.PerturbedAttentionGuidance(
        guidance_scale=2.5 if with_cfg else 0.0,
        perturbed_guidance_scale=3.0,
        perturbed_guidance_layers=[0],
        use_original_formulation=True,
    )
    theirs._step = 1  # they switch PAG off in step 0
    rules: list[Rule] = [Perturbed(4.0), ClassifierFree(3.5)]
    torch.testing.assert_close(
        Ours(*rules[: 1 + with_cfg])(predictions(1)),
        theirs.forward(labelled, null, perturbed).pred,
        rtol=0,
        atol=1e-12,
    )
