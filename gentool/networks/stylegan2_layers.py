"""Layers of StyleGAN2 whose weights are stored with unit variance and scaled when used (equalised learning rate).

Parameters and buffers have the names and shapes of the published networks.
Source: Karras et al. 2018 (1710.10196), section 4.1; 2020 (1912.04958; 2006.06676).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.errors import UserError
from gentool.networks.embedding import full_precision
from gentool.networks.upfirdn import down_conv, fir_kernel


def activated(x: Tensor, clamp: float | None = None, gain: float = 1.0) -> Tensor:
    """LeakyReLU(0.2) times sqrt 2 and a gain, clamped to the gain times `clamp`."""
    return clamped(F.leaky_relu(x, 0.2) * (math.sqrt(2) * gain), clamp, gain)


def clamped(x: Tensor, clamp: float | None, gain: float = 1.0) -> Tensor:
    return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)


def unit_rms(x: Tensor) -> Tensor:
    """(B, D) with a mean square of 1 in each row."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Dense(nn.Module):
    """(B, inputs) -> (B, outputs).

    Args:
        act: end on the activation.
        rate: learning rate of these weights as a multiple of the others'.
        bias: the bias to begin with.
    """

    def __init__(
        self, inputs: int, outputs: int, *, act: bool = False, rate: float = 1.0, bias: float = 0.0
    ) -> None:
        super().__init__()
        self.act, self.rate, self.gain = act, rate, rate / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias))

    def forward(self, x: Tensor) -> Tensor:
        out = F.linear(x, self.weight * self.gain, self.bias * self.rate)
        return activated(out) if self.act else out


class Conv(nn.Module):
    """A convolution with bias and activation, or without both (a shortcut's), that may halve the resolution."""

    resample_filter: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        down: bool = False,
        shortcut: bool = False,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.down, self.clamp = down, clamp
        self.scale = 1 / math.sqrt(inputs * size**2)
        self.register_buffer("resample_filter", fir_kernel())
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.bias = None if shortcut else nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        weight = self.weight * self.scale
        if self.down:
            x = down_conv(x, weight, self.resample_filter)
        else:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        if self.bias is None:
            return clamped(x * gain, self.clamp, gain)
        return activated(x + self.bias[:, None, None], self.clamp, gain)


class Mapping(nn.Module):
    """z (B, latent) and a label to w (B, width): both normalised, then layers that learn a hundred times slower.

    Like embeddings of the step, it stays in full precision under autocast.

    Args:
        latent: 0 for a mapping of labels alone.
        classes: 0 for one of z alone.
        averaged: keep the moving average of w, which truncation goes to.
    """

    RATE = 0.01
    BETA = 0.995
    """Decay of the average of w, a batch."""
    w_avg: Tensor

    def __init__(self, latent: int, classes: int, width: int, layers: int, *, averaged: bool = True) -> None:
        super().__init__()
        self.classes, self.layers = classes, layers
        self.embed = Dense(classes, width) if classes else None
        inputs = latent + (width if classes else 0)
        for i in range(layers):
            self.add_module(f"fc{i}", Dense(width if i else inputs, width, act=True, rate=self.RATE))
        if averaged:
            self.register_buffer("w_avg", torch.zeros(width))

    def forward(self, z: Tensor | None, label: Tensor | None = None) -> Tensor:
        """z (B, latent) and label (B,) int64, None where there are none of them -> w (B, width)."""
        if self.embed is not None and label is None:
            raise ValueError("the mapping of a conditional network needs labels")
        parts = [] if z is None else [unit_rms(z)]
        with full_precision(self.get_parameter("fc0.weight").device):
            if self.embed is not None and label is not None:
                hot = F.one_hot(label, self.classes).to(self.embed.weight.dtype)
                parts.append(unit_rms(self.embed(hot)))
            x = torch.cat(parts, dim=1)
            for i in range(self.layers):
                x = self.get_submodule(f"fc{i}")(x)
            return x

    @torch.no_grad()
    def track(self, w: Tensor) -> None:
        """Lets the average follow a training batch's w (B, width)."""
        self.w_avg.copy_(w.mean(0).lerp(self.w_avg, self.BETA))


def channels_at(resolution: int, base: int, most: int) -> int:
    """Feature maps at a resolution.

    Raises:
        UserError: none is left.
    """
    if base < resolution:
        raise UserError(
            f"channel_base {base} leaves no feature map at {resolution} pixels: raise it to {resolution} at least"
        )
    return min(base // resolution, most)
