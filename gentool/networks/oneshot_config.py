"""Recipe blocks of the one-shot generators, told apart by `name`. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gentool.networks.config import Channels
from gentool.recipes.schema import Positive, Strict


class DcganGenerator(Strict):
    """Three transposed convolutions with BatchNorm; the defaults are DP-Sinkhorn's of MNIST (957,969 parameters)."""

    name: Literal["dcgan"] = "dcgan"
    """Transposed convolutions from a quarter of the size."""
    latent: Positive = 16
    """Dimensions of the latent, uniform in [0, 1)."""
    embedding: Positive = 8
    """Dimensions of the learned label embedding beside it."""
    channels: Channels = 64
    """Feature maps at full resolution; twice as many at half, four times at a quarter."""


class ResGenerator(Strict):
    """Residual up-blocks with class-conditional BatchNorm and spectral norm, after BigGAN (Brock et al. 2019).

    The defaults are DP-Sinkhorn's of CelebA 32x32.
    """

    name: Literal["biggan"] = "biggan"
    """Residual blocks from 4x4, each doubling the resolution."""
    latent: Positive = 32
    """Dimensions of the latent, uniform in [0, 1)."""
    channels: Channels = 256
    """Feature maps everywhere."""


class MlpGenerator(Strict):
    """A small MLP for tiny images; it has no batch statistics."""

    name: Literal["mlp"] = "mlp"
    """Fully connected layers."""
    latent: Positive = 12
    """Dimensions of the latent, uniform in [0, 1)."""
    width: Positive = 128
    """Width of the hidden layers."""
    layers: Positive = 2
    """Hidden layers."""


GeneratorConfig = Annotated[DcganGenerator | ResGenerator | MlpGenerator, Field(discriminator="name")]
