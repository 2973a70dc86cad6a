"""Recipe of the base diffusion family: any process, preconditioning, loss and network of the shared floor."""

from __future__ import annotations

from gentool.diffusion.config import DiffusionConfig
from gentool.families.base import Family
from gentool.networks.config import NetworkConfig
from gentool.recipes.schema import Fraction, Recipe


class EdmModel(DiffusionConfig):
    network: NetworkConfig
    """The network inside the preconditioning."""
    conditional: bool = False
    """Whether the network sees class labels."""
    label_dropout: Fraction = 0.1
    """Share of examples trained without their label, so that guidance has an unconditional branch."""
    flip: bool = False
    """Mirror half of the training pictures left to right."""
    augment: Fraction = 0.0
    """Probability of each of EDM's non-leaky augmentations, which the network is told of (0: none)."""


class EdmRecipe(Recipe):
    model: EdmModel
    """The network and the process."""


FAMILY = Family(
    name="edm",
    summary="base diffusion: VP, VE, EDM, DDPM, cosine and flow matching behind one denoiser",
    paper="Karras et al. 2022 (2206.00364); Song et al. 2021 (2011.13456); Ho et al. 2020; Lipman et al. 2023",
    recipe=EdmRecipe,
    module="gentool.families.edm.module:EdmModule",
)
