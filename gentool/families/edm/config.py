"""Recipe of the base diffusion family: any process, preconditioning, loss and network of the shared floor."""

from __future__ import annotations

from gentool.families.base import Family
from gentool.training.denoising_config import DenoisingRecipe


class EdmRecipe(DenoisingRecipe):
    pass


FAMILY = Family(
    name="edm",
    summary="base diffusion: VP, VE, EDM, DDPM, cosine and flow matching behind one denoiser",
    paper="Karras et al. 2022 (2206.00364); Song et al. 2021 (2011.13456); Ho et al. 2020; Lipman et al. 2023",
    recipe=EdmRecipe,
    module="gentool.families.edm.module:EdmModule",
    shards=True,
)
