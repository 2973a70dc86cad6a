"""The style-based generator: z -> w -> picture (Karras et al. 2020, StyleGAN2, 1912.04958; 2006.06676).

Parameters and buffers have the names and shapes of the published networks, so that their weights load as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.errors import UserError
from gentool.networks.embedding import full_precision
from gentool.networks.stylegan2_config import StyleGenerator
from gentool.networks.stylegan2_layers import Dense, Mapping, activated, channels_at, clamped
from gentool.networks.upfirdn import fir_kernel, up_conv, upfirdn2d

LayerNoise = Literal["const", "none"] | Sequence[Tensor]
"""Noise of the layers: the planes that the network keeps, none, or one (B, 1, r, r) a layer (`Synthesis.planes`)."""

Tap = Callable[[str, Tensor], Tensor]
"""(name of a layer, its map (B, C, r, r)) -> the map to go on with."""


def modulated_conv(
    x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True, up: Tensor | None = None
) -> Tensor:
    """A convolution whose weights are scaled per picture by a style and brought back to unit norm (eq. 1-3).

    The activations are scaled instead of the weights, which is the same: maps before, by the style, and after, by
    1/norm of the scaled weights of each output.

    Args:
        x: (B, I, H, W).
        weight: (O, I, k, k); k is 3 with `up`.
        style: (B, I).
        up: FIR kernel; doubles the resolution.
    """
    x = x * style.to(x.dtype)[:, :, None, None]
    x = F.conv2d(x, weight, padding=weight.shape[-1] // 2) if up is None else up_conv(x, weight, up)
    if not demodulate:
        return x
    with full_precision(x.device):
        squares = style.square() @ weight.square().sum((2, 3)).T
    return x * (squares + 1e-8).rsqrt().to(x.dtype)[:, :, None, None]


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise times a learnt strength, bias, activation."""

    resample_filter: Tensor
    noise_const: Tensor

    def __init__(
        self, inputs: int, outputs: int, style: int, resolution: int, *, up: bool, clamp: float | None
    ) -> None:
        super().__init__()
        self.resolution, self.up, self.clamp = resolution, up, clamp
        self.register_buffer("resample_filter", fir_kernel())
        self.affine = Dense(style, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor, plane: Tensor | None) -> Tensor:
        """x (B, I, h, h), w (B, style), noise plane (r, r) or (B, 1, r, r) or None -> (B, O, r, r)."""
        up = self.resample_filter if self.up else None
        with full_precision(x.device):
            style = self.affine(w)
        x = modulated_conv(x, self.weight, style, up=up)
        if plane is not None:
            x = x + plane.to(x.dtype) * self.noise_strength
        return activated(x + self.bias[:, None, None], self.clamp)


class ToRgb(nn.Module):
    """1x1 modulated convolution without demodulation: a layer's maps to the picture's channels."""

    def __init__(self, inputs: int, channels: int, style: int, clamp: float | None) -> None:
        super().__init__()
        self.clamp, self.gain = clamp, 1 / math.sqrt(inputs)
        self.affine = Dense(style, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        with full_precision(x.device):
            style = self.affine(w) * self.gain
        x = modulated_conv(x, self.weight, style, demodulate=False)
        return clamped(x + self.bias[:, None, None], self.clamp)


class SynthesisBlock(nn.Module):
    """One resolution: (up-sampling convolution or the constant), convolution, and its share of the picture.

    Args:
        inputs: 0 for the first block, which starts from a learnt constant.
    """

    resample_filter: Tensor

    def __init__(
        self, inputs: int, outputs: int, style: int, resolution: int, channels: int, clamp: float | None
    ) -> None:
        super().__init__()
        self.register_buffer("resample_filter", fir_kernel())
        self.const: nn.Parameter | None = None
        self.conv0: SynthesisLayer | None = None
        if inputs:
            self.conv0 = SynthesisLayer(inputs, outputs, style, resolution, up=True, clamp=clamp)
        else:
            self.const = nn.Parameter(torch.randn(outputs, resolution, resolution))
        self.conv1 = SynthesisLayer(outputs, outputs, style, resolution, up=False, clamp=clamp)
        self.torgb = ToRgb(outputs, channels, style, clamp)

    @property
    def layers(self) -> dict[str, SynthesisLayer]:
        return {"conv1": self.conv1} if self.conv0 is None else {"conv0": self.conv0, "conv1": self.conv1}


class Synthesis(nn.Module):
    """w to a picture: blocks of 4, 8 ... pixels whose pictures are up-sampled and summed.

    Attributes:
        layer_names: of the convolutions, in order (`b4.conv1`, `b8.conv0` ...).
        planes: resolution of each one's noise plane.
        num_ws: how many w a picture takes: one a convolution, and one for the last block's picture.
        feature_names: of what `features` returns.
    """

    def __init__(self, config: StyleGenerator, channels: int, size: int) -> None:
        super().__init__()
        inputs = 0
        for resolution in resolutions(size):
            outputs = channels_at(resolution, config.channel_base, config.channel_max)
            block = SynthesisBlock(inputs, outputs, config.style, resolution, channels, config.clamp)
            self.add_module(f"b{resolution}", block)
            inputs = outputs
        layers = [(f"{name}.{key}", conv) for name, b in self._blocks() for key, conv in b.layers.items()]
        self.layer_names = [name for name, _ in layers]
        self.planes = [conv.resolution for _, conv in layers]
        self.num_ws = len(layers) + 1
        self.feature_names = ["b4.const", *self.layer_names]

    def forward(self, w: Tensor, noise: LayerNoise = "const", tap: Tap = lambda name, x: x) -> Tensor:
        """Pictures (B, C, size, size), nominally in [-1, 1].

        Args:
            w: (B, style), or one a layer: (B, num_ws, style) (W+).
            noise: of the layers.
            tap: sees, and may replace, the constant and every convolution's map after its activation.
        """
        ws = w[:, None].expand(-1, self.num_ws, -1) if w.dim() == 2 else w
        planes, image, x, i = self._planes(noise), None, None, 0
        for name, block in self._blocks():
            if block.const is not None:
                const = block.const.to(ws.dtype)
                x = tap(f"{name}.const", const.expand(len(ws), *const.shape))
            for key, conv in block.layers.items():
                x = tap(f"{name}.{key}", conv(x, ws[:, i], planes[i]))
                i += 1
            # the next block's first convolution takes this w too
            part = block.torgb(x, ws[:, i]).to(ws.dtype)
            if image is None:
                image = part
                continue
            with full_precision(ws.device):  # pictures are summed in it, whatever made them
                image = part + upfirdn2d(image, 4 * block.resample_filter, up=2, padding=(2, 1))
        assert image is not None
        return image

    def features(self, w: Tensor, noise: LayerNoise = "const") -> list[Tensor]:
        """The constant and the map of every convolution, after its activation (B, C, r, r): `feature_names`."""
        found: list[Tensor] = []

        def keep(name: str, x: Tensor) -> Tensor:
            found.append(x)
            return x

        self(w, noise, keep)
        return found

    def _blocks(self) -> list[tuple[str, SynthesisBlock]]:
        return [(name, child) for name, child in self.named_children() if isinstance(child, SynthesisBlock)]

    def _planes(self, noise: LayerNoise) -> Sequence[Tensor | None]:
        if isinstance(noise, str):
            kept = [conv.noise_const for _, block in self._blocks() for conv in block.layers.values()]
            choices: dict[str, Sequence[Tensor | None]] = {"const": kept, "none": [None] * len(kept)}
            return choices[noise]
        if len(noise) != len(self.planes):
            raise ValueError(f"{len(noise)} noise planes for {len(self.planes)} layers")
        return noise


class Generator(nn.Module):
    """The mapping and the synthesis.

    Attributes:
        latent: dimensions of z.
        style: dimensions of w.
        classes: 0 for an unconditional generator.
        mapping: `mapping(z, label) -> w`; its `w_avg` is where truncation leads.
        synthesis: `synthesis(w, noise) -> picture`.
    """

    def __init__(self, config: StyleGenerator, channels: int, size: int, classes: int = 0) -> None:
        super().__init__()
        self.latent, self.style, self.classes = config.latent, config.style, classes
        self.synthesis = Synthesis(config, channels, size)
        self.mapping = Mapping(config.latent, classes, config.style, config.layers)

    def forward(self, z: Tensor, label: Tensor | None = None, noise: LayerNoise = "const") -> Tensor:
        """z (B, latent) standard normal, label (B,) int64 or None -> pictures (B, C, size, size)."""
        return self.synthesis(self.mapping(z, label), noise)

    def features(self, w: Tensor, noise: LayerNoise = "const") -> list[Tensor]:
        """What heads on top of the generator read; see `Synthesis.features`."""
        return self.synthesis.features(w, noise)

    def truncated(self, w: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
        """w_avg + psi (w - w_avg): nearer to the mean picture for psi below 1.

        Args:
            w: (B, style) or (B, num_ws, style).
            cutoff: truncate the w of this many layers, from the coarsest; None: all.

        Returns:
            Like w; with a cutoff (B, num_ws, style).
        """
        near = w if psi == 1 else self.mapping.w_avg.to(w.dtype).lerp(w, psi)
        if cutoff is None:
            return near
        both = [x if x.dim() == 3 else x[:, None].expand(-1, self.synthesis.num_ws, -1) for x in (near, w)]
        return torch.cat([both[0][:, :cutoff], both[1][:, cutoff:]], dim=1)


def resolutions(size: int) -> list[int]:
    """4, 8 ... size.

    Raises:
        UserError: the size is no power of two from 8 up.
    """
    if size < 8 or size & (size - 1):
        raise UserError(
            f"stylegan2 makes pictures of 8, 16, 32 ... pixels, not {size}: give `data.size` or `data.pad` to bring "
            "them there"
        )
    return [2**k for k in range(2, size.bit_length())]
