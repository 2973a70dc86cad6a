"""Recipe of Shape As Points: a network that says where a noisy cloud's surface is and which way it faces."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from gentool.families.base import Family
from gentool.networks.pvcnn_config import Width
from gentool.recipes.schema import Misfit, Positive, Recipe, Strict


class Reads(Strict):
    """Clouds to read in the place of the training examples' own points, as another model leaves them."""

    path: Annotated[str, Field(min_length=1)]
    """A samples file of clouds (N each, P, 3) in the units of the examples, which come in their order."""
    each: Positive = 1
    """Clouds of each training example, one after the other; a step reads one of them at random."""


class SapModel(Strict):
    points: Positive = 3000
    """Points that the network reads, drawn from those of each example."""
    noise: Annotated[float, Field(ge=0)] = 0.005
    """Standard deviation of the noise on them, in longest sides of the shape's box over 1.2."""
    reads: Reads | None = None
    """Clouds with the noise of another model; null: the examples' own points."""
    resolution: Annotated[int, Field(ge=8, multiple_of=2)] = 128
    """Nodes along each side of the grid on which the solid is compared."""
    sigma: Annotated[float, Field(ge=0)] = 2.0
    """Smoothing of the predicted solid; the target, of all points of the example, has none."""
    target_sigma: Annotated[float, Field(ge=0)] = 0.0
    """Smoothing of the target; 0 wants many more points than the grid's surface has cells."""
    width: Width = 32
    """Features of a point and of a voxel."""
    blocks: Positive = 5
    """Residual blocks of the encoder, and of each decoder."""
    grid: Annotated[int, Field(ge=4)] = 32
    """Voxels along each side of the encoder's grid."""
    levels: Positive = 3
    """Levels of its U-Net; grid must be divisible by 2 to the power levels - 1."""
    offsets: Positive = 7
    """Points predicted for each that is read."""
    offset_scale: Annotated[float, Field(gt=0)] = 0.001
    """What predicted moves are scaled by."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.grid % 2 ** (self.levels - 1):
            raise ValueError(f"grid: {self.grid} cannot be halved {self.levels - 1} times")
        return self


class SapRecipe(Recipe):
    model: SapModel = SapModel()
    """The network and the grid."""

    @model_validator(mode="after")
    def _with_normals(self) -> Self:
        if getattr(self.data, "normals", True) is not True:
            raise Misfit("data.normals", "the target is made of points with normals: say true")
        if self.privacy is not None:
            raise Misfit(
                "privacy", "gradients of single examples through grids of Fourier waves are not supported"
            )
        return self


FAMILY = Family(
    name="sap",
    summary="clouds of points to closed meshes: normals and finer points for a differentiable Poisson solver",
    paper="Peng et al. 2021, Shape As Points: A Differentiable Poisson Solver (2106.03452)",
    recipe=SapRecipe,
    module="gentool.families.sap.module:SapModule",
    draws_samples=False,
)
