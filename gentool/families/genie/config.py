"""Recipe of GENIE: a head that predicts the second derivative of a trained diffusion model's flow."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gentool.families.base import Family
from gentool.networks.config import Head
from gentool.recipes.schema import Ema, Recipe, Strict


class GenieModel(Strict):
    head: Head = Head()
    """The network on the base's features."""
    mixed: bool = True
    """Three outputs, mixed by the noise level so that each stays of order 1; false: the derivative itself."""
    weight: Literal["gamma-squared", "none"] = "gamma-squared"
    """Weight of the squared error at each noise level: sigma^2 (the paper's gamma^2), or 1."""
    flip: bool = False
    """Mirror half of the training pictures left to right."""


class GenieRecipe(Recipe):
    base: Annotated[str, Field(min_length=1)]
    """Run folder of the diffusion model to distil from; a recipe in its place can be dry-run, not trained from."""
    model: GenieModel = GenieModel()
    """The head and its loss."""
    ema: Ema | None = None
    """Moving average of the head's weights; the paper keeps none."""


FAMILY = Family(
    name="genie",
    summary="second-order sampling: a head distilled from a trained diffusion run predicts the flow's curvature",
    paper="Dockhorn, Vahdat and Kreis 2022, GENIE: Higher-Order Denoising Diffusion Solvers (2210.05475)",
    recipe=GenieRecipe,
    module="gentool.families.genie.module:GenieModule",
    shards=True,
    distils=True,
)
