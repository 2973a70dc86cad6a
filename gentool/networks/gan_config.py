"""Recipe blocks of generators with a latent and of their discriminators, told apart by `name`. No torch here.

Source: Xiao, Kreis and Vahdat 2022 (denoising diffusion GANs, 2112.07804).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gentool.networks.config import Channels, Dropout
from gentool.recipes.schema import Positive, Strict

Even = Annotated[int, Field(ge=4, multiple_of=2)]
Latent = Annotated[int, Field(ge=0)]
Mult = Annotated[tuple[Positive, ...], Field(min_length=1)]


class LatentUNet(Strict):
    """NCSN++ whose group norms are steered by a latent; the defaults are DDGAN's CIFAR-10 generator."""

    name: Literal["latent-unet"] = "latent-unet"
    """NCSN++ with adaptive group norms of a latent."""
    channels: Channels = 128
    """Feature maps at the finest level; the embedding of the step has four times as many."""
    mult: Mult = (1, 2, 2, 2)
    """Multiple of `channels` at each level, finest first; each level halves the resolution."""
    blocks: Positive = 2
    """Residual blocks per level on the way down (one more on the way up)."""
    attention: tuple[Positive, ...] = (16,)
    """Resolutions (the shorter side, in pixels) with self-attention; the middle always has it."""
    dropout: Dropout = 0.0
    """Dropout inside residual blocks."""
    latent: Latent = 100
    """Dimensions of the latent z; 0 makes the generator deterministic."""
    style: Positive = 256
    """Width of the mapped latent w."""
    layers: Latent = 4
    """Layers of the mapping after its first."""
    tanh: bool = True
    """End on a tanh: for data in [-1, 1]."""


class LatentMlp(Strict):
    """A plain MLP on the state, the latent and the step, for points and tiny pictures."""

    name: Literal["latent-mlp"] = "latent-mlp"
    """MLP on flattened states beside a latent."""
    width: Positive = 512
    """Width of the hidden layers."""
    layers: Positive = 3
    """Hidden layers."""
    latent: Latent = 2
    """Dimensions of the latent z; 0 makes the generator deterministic."""
    embedding: Even = 16
    """Width of the embedding of the step (and of the label)."""
    tanh: bool = False
    """End on a tanh: for data in [-1, 1]."""


GeneratorConfig = Annotated[LatentUNet | LatentMlp, Field(discriminator="name")]


class ConvDiscriminator(Strict):
    """Residual discriminator of two neighbouring states; the defaults are DDGAN's for 32 pixels.

    For 256 pixels DDGAN takes `mult: [2, 4, 4, 4, 4, 4], full_blocks: 0, head_scale: 1.0`.
    """

    name: Literal["conv"] = "conv"
    """Residual convolutions."""
    channels: Positive = 128
    """Feature maps of the first layer."""
    mult: Mult = (1, 2, 4, 4)
    """Multiple of `channels` of each block."""
    full_blocks: Annotated[int, Field(ge=0)] = 1
    """How many of the first blocks keep the resolution; each of the others halves it."""
    embedding: Even = 256
    """Width of the embedding of the step (and of the label)."""
    group: Annotated[int, Field(ge=2)] = 4
    """Pictures that share a minibatch standard deviation; a batch that it does not divide takes the largest
    divisor below."""
    head_scale: Annotated[float, Field(gt=0)] = 1.0e-10
    """Variance of the last convolution's initial weights, in units of 1/fan-out."""

    @model_validator(mode="after")
    def _blocks(self) -> Self:
        if self.full_blocks > len(self.mult):
            raise ValueError(f"full_blocks ({self.full_blocks}) exceeds the {len(self.mult)} blocks of mult")
        return self


class MlpDiscriminator(Strict):
    """A plain MLP on two neighbouring states and the step."""

    name: Literal["mlp"] = "mlp"
    """MLP on flattened states."""
    width: Positive = 512
    """Width of the hidden layers."""
    layers: Positive = 3
    """Hidden layers."""
    embedding: Even = 16
    """Width of the embedding of the step (and of the label)."""


DiscriminatorConfig = Annotated[ConvDiscriminator | MlpDiscriminator, Field(discriminator="name")]
