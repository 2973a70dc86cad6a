"""Recipe blocks of the networks, told apart by `name`. No torch here: validating a recipe is instant."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gentool.recipes.schema import Positive, Strict

Channels = Annotated[int, Field(ge=4, multiple_of=4)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Augment = Annotated[int, Field(ge=0)]


class SongUNet(Strict):
    """DDPM++ and NCSN++ (Song et al. 2021) as EDM builds them; the defaults are EDM's CIFAR-10 DDPM++.

    NCSN++ is `embedding: fourier, resample: fir, encoder: residual`; DPDM's is `label_embedding: table`.
    """

    name: Literal["song-unet"] = "song-unet"
    """DDPM++ / NCSN++ U-Net."""
    channels: Channels = 128
    """Feature maps at the finest level; the embedding has four times as many."""
    mult: Annotated[tuple[Positive, ...], Field(min_length=1)] = (2, 2, 2)
    """Multiple of `channels` at each level, finest first; each level halves the resolution."""
    blocks: Positive = 4
    """Residual blocks per level on the way down (one more on the way up)."""
    attention: tuple[Positive, ...] = (16,)
    """Resolutions (the shorter side, in pixels) with self-attention; the middle always has it."""
    decoder_attention: Literal["last", "every"] = "last"
    """On the way up, attention in the last block of a listed resolution, or in every one."""
    dropout: Dropout = 0.0
    """Dropout inside residual blocks."""
    embedding: Literal["positional", "fourier"] = "positional"
    """Of the noise level: sinusoids (DDPM++) or random Fourier features (NCSN++)."""
    resample: Literal["box", "fir"] = "box"
    """Filter of up- and down-sampling: 2x2 mean and nearest, or [1, 3, 3, 1]."""
    encoder: Literal["standard", "residual"] = "standard"
    """residual adds a filtered pyramid of the input to the way down (NCSN++)."""
    label_embedding: Literal["one-hot", "table"] = "one-hot"
    """one-hot: EDM's linear map of sqrt(K) one-hot (zeros for the null label); table: a learned row each."""
    augment: Augment = 0
    """Width of the augmentation label the network takes (9 for EDM's pipe, 0 for none)."""


class AdmUNet(Strict):
    """The ADM U-Net (Dhariwal and Nichol 2021); the defaults are ImageNet-64's."""

    name: Literal["adm-unet"] = "adm-unet"
    """ADM U-Net."""
    channels: Channels = 192
    """Feature maps at the finest level; the embedding has four times as many."""
    mult: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 3, 4)
    """Multiple of `channels` at each level, finest first; each level halves the resolution."""
    blocks: Positive = 3
    """Residual blocks per level on the way down (one more on the way up)."""
    attention: tuple[Positive, ...] = (32, 16, 8)
    """Resolutions (the shorter side, in pixels) with attention in every block; the middle always has it."""
    head_channels: Positive = 64
    """Channels per attention head."""
    dropout: Dropout = 0.0
    """Dropout inside residual blocks."""
    augment: Augment = 0
    """Width of the augmentation label the network takes (9 for EDM's pipe, 0 for none)."""


class DiT(Strict):
    """Diffusion transformer with adaLN-zero (Peebles and Xie 2023); the defaults are DiT-S/2."""

    name: Literal["dit"] = "dit"
    """Diffusion transformer."""
    patch: Positive = 2
    """Side of a patch, in pixels."""
    width: Channels = 384
    """Width of a token."""
    depth: Positive = 12
    """Transformer blocks."""
    heads: Positive = 6
    """Attention heads; must divide `width`."""
    mlp_ratio: Positive = 4
    """Hidden width of a block's MLP over `width`."""
    augment: Augment = 0
    """Width of the augmentation label the network takes (9 for EDM's pipe, 0 for none)."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        return self


class FilmMLP(Strict):
    """Residual MLP modulated by the noise level, for vectors and tiny images: far faster than a U-Net."""

    name: Literal["film-mlp"] = "film-mlp"
    """Residual MLP on flattened inputs."""
    width: Channels = 256
    """Hidden width."""
    blocks: Positive = 4
    """Residual blocks."""
    dropout: Dropout = 0.0
    """Dropout inside residual blocks."""
    augment: Augment = 0
    """Width of the augmentation label the network takes (9 for EDM's pipe, 0 for none)."""


class ConcatMLP(Strict):
    """Plain MLP on pixels, noise level and label side by side: few weights and early signal, as DP-SGD wants them."""

    name: Literal["concat-mlp"] = "concat-mlp"
    """Plain MLP on flattened inputs."""
    width: Channels = 128
    """Hidden width."""
    blocks: Positive = 1
    """Hidden layers after the first, each with a shortcut around it."""
    augment: Augment = 0
    """Width of the augmentation label the network takes (9 for EDM's pipe, 0 for none)."""


NetworkConfig = Annotated[SongUNet | AdmUNet | DiT | FilmMLP | ConcatMLP, Field(discriminator="name")]


class ResNet(Strict):
    """Residual image classifier with GroupNorm: no batch statistics, so that DP and single images work."""

    name: Literal["resnet"] = "resnet"
    """Residual classifier."""
    channels: Channels = 32
    """Feature maps at the finest level."""
    mult: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 4)
    """Multiple of `channels` at each level; each level halves the resolution."""
    blocks: Positive = 1
    """Residual blocks per level."""
    dropout: Dropout = 0.0
    """Dropout before the logits and inside residual blocks."""
    noise_conditioned: bool = False
    """Take the noise level too, as classifier guidance needs it."""


class LogReg(Strict):
    """Logistic regression on the pixels."""

    name: Literal["logreg"] = "logreg"
    """Logistic regression."""


class Mlp(Strict):
    """Pixels, one hidden layer of ReLUs, logits; the default is that of the private-generation papers."""

    name: Literal["mlp"] = "mlp"
    """One hidden layer."""
    width: Positive = 100
    """Hidden units."""


class Cnn(Strict):
    """Three convolutions and two linear layers; the defaults are those of the private-generation papers."""

    name: Literal["cnn"] = "cnn"
    """Small convolutional network."""
    channels: tuple[Positive, Positive, Positive] = (32, 64, 128)
    """Feature maps of the three 3x3 convolutions."""
    width: Positive = 128
    """Hidden units of the linear layer after them."""
    dropout: Dropout = 0.5
    """Dropout after each of the first two convolutions and before the logits."""


class Wrn(Strict):
    """Wide residual network (Zagoruyko and Komodakis 2016); the defaults are WRN-28-10, DiffPure's for CIFAR-10."""

    name: Literal["wrn"] = "wrn"
    """Wide residual network."""
    depth: Annotated[int, Field(ge=10)] = 28
    """Convolutions on the longest way, 6 n + 4: three groups of n blocks of two."""
    widen: Positive = 10
    """Multiple of the 16, 32 and 64 feature maps of the three groups."""
    norm: Literal["batch", "group"] = "batch"
    """batch is the paper's, and lets the examples of a batch see each other in training; group does not."""
    dropout: Dropout = 0.0
    """Dropout between a block's convolutions."""

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        if (self.depth - 4) % 6:
            below = self.depth - (self.depth - 4) % 6
            raise ValueError(f"depth must be 6 n + 4, such as {below} or {below + 6}, got {self.depth}")
        return self


ClassifierConfig = Annotated[ResNet | LogReg | Mlp | Cnn | Wrn, Field(discriminator="name")]


class Head(Strict):
    """A small network on the features of a frozen one; the defaults are GENIE's."""

    channels: Channels | None = None
    """Width; absent: that of the features it reads."""
    blocks: Positive = 1
    """Residual blocks."""
    normalise: bool = False
    """Normalise the features before they are read (GENIE: LSUN Church alone)."""
    features: Literal["network", "none"] = "network"
    """none: read state, eps and noise level alone, for networks that expose no features; a deviation from GENIE."""
