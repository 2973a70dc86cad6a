"""Recipe of PFGM++: the base family with D extra dimensions."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gentool.families.base import Family
from gentool.training.denoising_config import DenoisingModel, DenoisingRecipe


class PfgmppModel(DenoisingModel):
    dims: Annotated[float, Field(gt=0)] | Literal["inf"] = 128.0
    """D, the extra dimensions: small ones stand more error of the network, inf is EDM to the bit."""

    @model_validator(mode="after")
    def _published_processes(self) -> Self:
        if self.process.name not in ("edm", "ve"):
            raise ValueError(
                f"the electric field's radius is sigma sqrt(D): take the process edm or ve, not {self.process.name}"
            )
        return self


class PfgmppRecipe(DenoisingRecipe):
    model: PfgmppModel
    """The network, the process and the extra dimensions."""


FAMILY = Family(
    name="pfgmpp",
    summary="PFGM++: Student t noise of D degrees of freedom, between PFGM (D = 1) and diffusion (D = infinity)",
    paper="Xu et al. 2023, PFGM++: Unlocking the Potential of Physics-Inspired Generative Models (2302.04265)",
    recipe=PfgmppRecipe,
    module="gentool.families.pfgmpp.module:PfgmppModule",
    shards=True,
)
