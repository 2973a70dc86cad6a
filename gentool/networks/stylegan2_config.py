"""Recipe blocks of the style-based generator and its discriminator. No torch here.

Source: Karras et al. 2020 (StyleGAN2, 1912.04958; StyleGAN2-ADA, 2006.06676). Defaults are those for 256 pixels.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gentool.recipes.schema import Positive, Strict

Clamp = Annotated[float, Field(gt=0)] | None


class StyleGenerator(Strict):
    name: Literal["stylegan2"] = "stylegan2"
    """Mapping to w, modulated convolutions, skip connections of pictures."""
    latent: Positive = 512
    """Dimensions of the latent z, Gaussian."""
    style: Positive = 512
    """Dimensions of w."""
    layers: Positive = 8
    """Layers of the mapping from z to w."""
    channel_base: Positive = 16384
    """Feature maps at resolution r: channel_base/r, at most `channel_max`."""
    channel_max: Positive = 512
    """The most feature maps of a layer."""
    clamp: Clamp = None
    """Clamp activations to this magnitude; networks that were trained in float16 took 256."""


class StyleDiscriminator(Strict):
    name: Literal["stylegan2"] = "stylegan2"
    """Convolutions with FIR down-sampling, minibatch standard deviation, projection of labels."""
    architecture: Literal["resnet", "orig"] = "resnet"
    """Residual blocks, or plain ones (the published CIFAR-10 setting)."""
    channel_base: Positive = 16384
    """Feature maps at resolution r: channel_base/r, at most `channel_max`."""
    channel_max: Positive = 512
    """The most feature maps of a layer."""
    group: Annotated[int, Field(ge=2)] = 4
    """Pictures that share a minibatch standard deviation; a batch that it does not divide takes the largest
    divisor below."""
    layers: Positive = 8
    """Layers of the mapping of labels, where there are any."""
    clamp: Clamp = None
    """Clamp activations to this magnitude; networks that were trained in float16 took 256."""


Pipe = Literal["b", "bg", "bgc"]
"""Augmentation: blitting (flips, right angles, whole pixels), with general geometry, with colour too."""
