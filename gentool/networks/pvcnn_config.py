"""Recipe blocks of point-voxel networks. No torch here: validating a recipe is instant."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gentool.recipes.schema import Positive, Strict

Width = Annotated[int, Field(ge=8, multiple_of=8)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Sampler = Literal["farthest", "first"]
"""Which points become centres: farthest-point sampling, or the first as they come: no loop, and a random choice where
the order is random."""


class Abstraction(Strict):
    """One level on the way down: convolutions on all points, then fewer points that stand for the balls around them."""

    channels: Width | None = None
    """Feature maps of the point-voxel convolutions; null: none at this level."""
    blocks: Positive = 1
    """How many of them."""
    resolution: Annotated[int, Field(ge=2)] = 32
    """Voxels along each side of their grid."""
    attention: bool = False
    """Linear attention over the points after each of them."""
    centres: Positive
    """Points kept; all of them where there are fewer."""
    radius: Annotated[float, Field(gt=0)]
    """Of the ball around each centre, in the units of the (normalised) coordinates."""
    neighbours: Positive = 32
    """At most so many points of a ball are looked at."""
    widths: Widths
    """Layers of the MLP on each neighbour, before the maximum over the ball."""


class Propagation(Strict):
    """One level on the way up: features interpolated back to more points, joined by those of the way down."""

    widths: Widths
    """Layers of the MLP on each point."""
    channels: Width
    """Feature maps of the point-voxel convolutions after it."""
    blocks: Positive = 2
    """How many of them."""
    resolution: Annotated[int, Field(ge=2)] = 32
    """Voxels along each side of their grid."""


_DOWN = (
    Abstraction(channels=32, blocks=2, resolution=32, centres=1024, radius=0.1, widths=(32, 64)),
    Abstraction(channels=64, resolution=16, attention=True, centres=256, radius=0.2, widths=(64, 128)),
    Abstraction(channels=128, resolution=8, centres=64, radius=0.4, widths=(128, 256)),
    Abstraction(centres=16, radius=0.8, widths=(128, 128, 128)),
)
_UP = (
    Propagation(widths=(128, 128), channels=128, blocks=3, resolution=8),
    Propagation(widths=(128, 128), channels=128, blocks=3, resolution=8),
    Propagation(widths=(128, 128), channels=128, blocks=2, resolution=16),
    Propagation(widths=(128, 128, 64), channels=64, blocks=2, resolution=32),
)


class PointUNet(Strict):
    """PVCNN++'s U-Net (Liu et al. 2019; Zhou et al. 2021, PVD); the defaults are the autoencoder of LION."""

    down: Annotated[tuple[Abstraction, ...], Field(min_length=1)] = _DOWN
    """Levels from the finest to the coarsest."""
    up: Annotated[tuple[Propagation, ...], Field(min_length=1)] = _UP
    """Levels back, from the coarsest to the finest; as many."""
    head: Width = 128
    """Width of the last hidden layer."""
    dropout: Dropout = 0.1
    """Inside the convolutions and before the last layer."""

    @model_validator(mode="after")
    def _as_many_levels(self) -> Self:
        if len(self.down) != len(self.up):
            raise ValueError(f"{len(self.down)} levels down and {len(self.up)} up: give as many of both")
        return self


class PointEncoder(Strict):
    """The way down of such a network and a maximum over the points; the defaults are LION's global encoder."""

    down: Annotated[tuple[Abstraction, ...], Field(min_length=1)] = (
        Abstraction(channels=32, blocks=2, resolution=32, centres=1024, radius=0.1, widths=(32, 32)),
        Abstraction(channels=32, resolution=16, attention=True, centres=256, radius=0.2, widths=(32, 64)),
    )
    """Levels from the finest to the coarsest."""
    dropout: Dropout = 0.1
    """Inside the convolutions."""


LION_PRIOR = PointUNet(
    down=(
        *_DOWN[:2],
        _DOWN[2].model_copy(update={"widths": (128, 128)}),
        _DOWN[3],
    )
)
"""LION's prior of latent points: one width differs from the autoencoder's."""


class ResidualMlp(Strict):
    """Residual MLP on a vector and its noise level; the defaults are LION's global prior."""

    width: Width = 2048
    """Width of the hidden layers."""
    blocks: Positive = 8
    """Residual blocks of two layers and a squeeze-and-excitation."""
    embedding: Width = 128
    """Width of the noise level's sinusoids."""
    dropout: Dropout = 0.2
    """Inside the blocks."""
