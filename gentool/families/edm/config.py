"""Recipe of the base diffusion family: any process, preconditioning, loss and network of the shared floor."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gentool.diffusion.config import EdmPrecond, EdmProcess, LossConfig, PrecondConfig, ProcessConfig
from gentool.families.base import Family
from gentool.networks.config import NetworkConfig
from gentool.recipes.schema import Fraction, Recipe, Strict


class EdmModel(Strict):
    network: NetworkConfig
    """The network F inside the preconditioning."""
    process: ProcessConfig = EdmProcess()
    """How data turn into noise."""
    precond: PrecondConfig = EdmPrecond()
    """What the network predicts, and its scales."""
    loss: LossConfig = LossConfig()
    """Noise levels drawn in training and their weight."""
    conditional: bool = False
    """Whether the network sees class labels."""
    label_dropout: Fraction = 0.1
    """Share of examples whose label is dropped, so that guidance has an unconditional branch."""
    flip: bool = False
    """Mirror half of the training pictures left to right."""
    augment: Fraction = 0.0
    """Probability of each of EDM's non-leaky augmentations (0 switches them off)."""


class EdmRecipe(Recipe):
    model: Annotated[EdmModel, Field()]


FAMILY = Family(
    name="edm",
    summary="base diffusion: VP, VE, EDM, cosine and flow matching with one denoiser",
    paper="Karras et al. 2022, arXiv 2206.00364; Song et al. 2021; Ho et al. 2020; Lipman et al. 2023",
    recipe=EdmRecipe,
    module="gentool.families.edm.module:EdmModule",
)
