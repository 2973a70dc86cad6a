"""Generators with a latent: x0 from a noisy state, its step and z (Xiao et al. 2022, 2112.07804)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.networks import gan_config as configs
from gentool.networks.blocks import BlockStyle, GroupNorm, ResBlock
from gentool.networks.embedding import Mapping, Positional, full_precision
from gentool.networks.song import initialise_song
from gentool.networks.unet import UNet

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


class PixelNorm(nn.Module):
    """(B, D) -> (B, D) with a mean square of 1: a latent's direction alone matters (Karras et al. 2018)."""

    def forward(self, z: Tensor) -> Tensor:
        return z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class StyleMapping(nn.Module):
    """z (B, latent) and a label to w (B, width): PixelNorm, then linear layers with SiLU, the label added last.

    Without a latent w is the label's embedding, or zero. Like the step's, this embedding stays in full
    precision under autocast.
    """

    def __init__(self, latent: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        self.width = width
        self.label = nn.Embedding(classes, width) if classes else None
        self.layers = nn.Sequential(PixelNorm()) if latent else None
        if self.layers is not None:
            for i in range(1 + layers):
                self.layers.extend([scaled_uniform(nn.Linear(width if i else latent, width)), nn.SiLU()])

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        with full_precision(z.device):
            w = z.new_zeros(len(z), self.width) if self.layers is None else self.layers(z)
            return w if self.label is None or label is None else w + self.label(label)


@dataclass(frozen=True)
class LatentStyle(BlockStyle):
    """Blocks of which the embedding's last `latent` values are w."""

    latent: int = 0


class AdaptiveGroupNorm(nn.Module):
    """gamma(w) norm(x) + beta(w), with gamma and beta linear in w and 1 and 0 at w = 0 to begin with."""

    def __init__(self, channels: int, style: int, eps: float) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, eps, affine=False)
        self.style = nn.Linear(style, 2 * channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        scaled_uniform(self.style)
        nn.init.ones_(self.style.bias[: self.norm.num_channels])

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        gamma, beta = self.style(w)[:, :, None, None].chunk(2, dim=1)
        return gamma * self.norm(x) + beta


class LatentResBlock(ResBlock):
    """The residual block with both norms adaptive; takes (B, style.emb + style.latent): the step's embedding, w."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style: LatentStyle,
        *,
        resample: Literal["up", "down"] | None = None,
        heads: int = 0,
    ) -> None:
        super().__init__(in_channels, out_channels, style, resample=resample, heads=heads)
        self.widths = (style.emb, style.latent)
        self.norm0 = AdaptiveGroupNorm(in_channels, style.latent, style.eps)
        self.norm1 = AdaptiveGroupNorm(out_channels, style.latent, style.eps)

    def normalised(self, x: Tensor, emb: Tensor | None) -> Tensor:
        assert emb is not None
        return self.norm0(x, emb.split(self.widths, dim=1)[1])

    def modulated(self, h: Tensor, emb: Tensor | None) -> Tensor:
        assert emb is not None
        assert self.embed is not None
        step, w = emb.split(self.widths, dim=1)
        return self.norm1(h + self.embed(step)[:, :, None, None], w)


class AdaptiveUNet(UNet):
    """NCSN++ of `LatentResBlock`s."""

    block = LatentResBlock


class Generator(nn.Module):
    """x0 from a state, the index of its step and a latent; a pure function of each example.

    Attributes:
        latent: dimensions of z, 0 for a deterministic generator.
        tanh: whether the output is bounded to (-1, 1).
    """

    def __init__(self, latent: int, tanh: bool) -> None:
        super().__init__()
        self.latent, self.tanh = latent, tanh

    def forward(self, x: Tensor, k: Tensor, z: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, ...), k (B,) int64, z (B, latent), label (B,) int64 or None -> x0, of x's shape."""
        out = self.predicted(x, k.to(x.dtype), z, label)
        return out.tanh() if self.tanh else out

    def predicted(self, x: Tensor, k: Tensor, z: Tensor, label: Tensor | None) -> Tensor:
        """x0 before the tanh."""
        raise NotImplementedError


class UNetGenerator(Generator):
    """The step's embedding is added after the first convolution of a block; w steers its two group norms."""

    def __init__(
        self, config: configs.LatentUNet, channels: int, size: tuple[int, ...], classes: int
    ) -> None:
        super().__init__(config.latent, config.tanh)
        width = 4 * config.channels
        self.mapping = StyleMapping(config.latent, config.style, config.layers, classes)
        self.network = AdaptiveUNet(
            Mapping(Positional(config.channels, endpoint=True), config.channels, width),
            LatentStyle(
                emb=width,
                eps=1e-6,
                scale_shift=False,
                skip_scale=math.sqrt(0.5),
                project_resampled=True,
                dropout=config.dropout,
                resample="fir",
                latent=config.style,
            ),
            channels,
            channels,
            size,
            channels=config.channels,
            mult=config.mult,
            blocks=config.blocks,
            attention=config.attention,
            residual=True,
        )
        initialise_song(self.network)
        for module in self.network.modules():
            if isinstance(module, AdaptiveGroupNorm):
                module.reset_parameters()

    def predicted(self, x: Tensor, k: Tensor, z: Tensor, label: Tensor | None) -> Tensor:
        net = self.network
        emb = torch.cat([F.silu(net.mapping(k, None, None)), self.mapping(z, label)], dim=1)
        return net.output(F.silu(net.norm(net.body(x, emb))))


class MlpGenerator(Generator):
    """A leaky MLP on state, latent, and the embeddings of step and label side by side (the paper's toy)."""

    def __init__(self, config: configs.LatentMlp, shape: tuple[int, ...], classes: int) -> None:
        super().__init__(config.latent, config.tanh)
        self.step = StepEmbedding(config.embedding, classes)
        values = math.prod(shape)
        self.layers = leaky_mlp(values + config.latent + self.step.width, config.width, config.layers, values)

    def predicted(self, x: Tensor, k: Tensor, z: Tensor, label: Tensor | None) -> Tensor:
        return self.layers(torch.cat([x.flatten(1), z, self.step(k, label)], dim=1)).view(x.shape)


class StepEmbedding(nn.Module):
    """Sinusoids of the step's index, and a row for the label beside them: (B,) -> (B, width)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.step = Positional(width, endpoint=True)
        self.label = nn.Embedding(classes, width) if classes else None
        self.width = 2 * width if classes else width

    def forward(self, k: Tensor, label: Tensor | None) -> Tensor:
        step = self.step(k)
        return step if self.label is None else torch.cat([step, self.label(label)], dim=1)


def leaky_mlp(inputs: int, width: int, layers: int, outputs: int) -> nn.Sequential:
    """`layers` hidden layers of LeakyReLU(0.2) and a linear output."""
    parts: list[nn.Module] = []
    for i in range(layers):
        parts += [nn.Linear(width if i else inputs, width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*parts, nn.Linear(width, outputs))


def scaled_uniform(layer: Layer, scale: float = 1.0) -> Layer:
    """Weights uniform with variance scale / fan-out, biases 0: DDGAN's initialisation outside its U-Net.

    The paper's code says fan-avg and computes fan-out; this is what was trained.
    """
    fan_out = layer.weight.shape[0] * layer.weight[0, 0].numel()
    bound = math.sqrt(3 * scale / fan_out)
    nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def build_generator(config: configs.GeneratorConfig, shape: tuple[int, ...], classes: int = 0) -> Generator:
    """The generator of a config for samples of a shape, (C, H, W) or (D,).

    Raises:
        UserError: the shape does not fit the config (vectors for a U-Net, levels, attention resolutions).
    """
    if isinstance(config, configs.LatentMlp):
        return MlpGenerator(config, shape, classes)
    return UNetGenerator(config, shape[0], tuple(shape[1:]) or shape, classes)
