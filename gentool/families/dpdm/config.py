"""Recipe of differentially private diffusion: four denoisers by name, none with a constant measured on the data."""

from __future__ import annotations

import math
from typing import Literal

from gentool.diffusion.config import (
    DiffusionConfig,
    EdmPrecond,
    EdmProcess,
    TrigProcess,
    VePrecond,
    VeProcess,
    VpPrecond,
    VpProcess,
    VPrediction,
)
from gentool.families.base import Family
from gentool.recipes.schema import Ema, Optimizer, Positive, Privacy
from gentool.training.denoising_config import NetworkModel, NetworkRecipe

SIGMA_DATA = math.sqrt(1 / 3)
"""Standard deviation of U(-1, 1). A constant, because one measured on private data would be a release of its own."""

CONFIGS: dict[str, DiffusionConfig] = {
    "edm": DiffusionConfig(process=EdmProcess(), precond=EdmPrecond(sigma_data=SIGMA_DATA)),
    "v": DiffusionConfig(
        process=TrigProcess(logsnr_max=13.0, logsnr_min=-9.0), precond=VPrediction(time_scale=1.0)
    ),
    "vp": DiffusionConfig(process=VpProcess(t_min=1.0e-5, train_t_min=1.0e-5), precond=VpPrecond()),
    "ve": DiffusionConfig(process=VeProcess(sigma_min=0.02, sigma_max=100.0), precond=VePrecond()),
}
"""Each config's process and preconditioning; its law of noise levels is the process's own, and its
weight 1/c_out^2."""


class DpdmModel(NetworkModel):
    config: Literal["edm", "v", "vp", "ve"] = "edm"
    """Preconditioning and law of the noise levels; v puts more weight on large noise and is best at epsilon 0.2."""
    classes: Positive | None = None
    """How many classes there are: public knowledge, to be stated where only the private labels could tell."""

    @property
    def diffusion(self) -> DiffusionConfig:
        return CONFIGS[self.config]


class DpdmRecipe(NetworkRecipe):
    model: DpdmModel
    """Which denoiser, and the network in it."""
    privacy: Privacy
    """What the training may give away; `enabled: false` trains the same model without protection, as a baseline."""
    optimizer: Optimizer = Optimizer(name="adam", lr=3.0e-4)
    ema: Ema | None = Ema(rule="ramp", decay=0.999)
    """Moving average of the weights; costs no privacy, and sampling uses it. null switches it off."""


FAMILY = Family(
    name="dpdm",
    summary="differentially private diffusion: small denoisers trained by DP-SGD with noise multiplicity",
    paper="Dockhorn et al. 2023, Differentially Private Diffusion Models (2210.09929)",
    recipe=DpdmRecipe,
    module="gentool.families.dpdm.module:DpdmModule",
)
