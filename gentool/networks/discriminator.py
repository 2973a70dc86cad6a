"""Discriminators of two neighbouring states of a chain, told which step it is (Xiao et al. 2022, 2112.07804)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.errors import UserError
from gentool.networks import gan_config as configs
from gentool.networks.blocks import FirDown
from gentool.networks.embedding import Positional, full_precision
from gentool.networks.generator import StepEmbedding, leaky_mlp, scaled_uniform

TINY = 1e-10
"""Variance scale of initial weights that the paper's code calls zero."""


class Discriminator(nn.Module):
    """How real x_k looks as what came before x_{k+1}."""

    def forward(self, x: Tensor, x_next: Tensor, k: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, ...) at index k (B,) int64, x_next (B, ...) one step noisier, label (B,) or None -> logits (B,)."""
        raise NotImplementedError


class DownBlock(nn.Module):
    """act-conv-(embedding)-act-(FIR down)-conv plus a 1x1 shortcut without bias, over sqrt 2; LeakyReLU(0.2)."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int, down: bool) -> None:
        super().__init__()
        self.conv0 = scaled_uniform(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.embed = scaled_uniform(nn.Linear(embedding, out_channels))
        self.down = FirDown() if down else nn.Identity()
        self.conv1 = scaled_uniform(nn.Conv2d(out_channels, out_channels, 3, padding=1), TINY)
        self.skip = scaled_uniform(nn.Conv2d(in_channels, out_channels, 1, bias=False))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(leaky(x)) + self.embed(emb)[:, :, None, None]
        h = self.conv1(self.down(leaky(h)))
        return (self.skip(self.down(x)) + h) * math.sqrt(0.5)


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def minibatch_std(x: Tensor, group: int) -> Tensor:
    """(B, C, H, W) with a channel more: the mean standard deviation within each picture's group.

    Groups have g pictures, the largest divisor of B up to `group`, each B/g apart; variances are biased, plus
    1e-8 (Karras et al. 2018, StyleGAN2's form).
    """
    size = group_size(len(x), group)
    grouped = x.unflatten(0, (size, -1))
    variance = (grouped - grouped.mean(0)).square().mean(0)  # torch's `var` is slow over an outer dimension
    std = (variance + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return torch.cat([x, std.repeat(size)[:, None, None, None].expand(-1, 1, *x.shape[2:])], dim=1)


def group_size(batch: int, group: int) -> int:
    """How many pictures of a batch share a standard deviation: the largest divisor of it up to `group`."""
    return next(g for g in range(min(batch, group), 0, -1) if batch % g == 0)


class ConvDiscriminator(Discriminator):
    """1x1 convolution of both states, down blocks, minibatch standard deviation, convolution, sum over pixels."""

    def __init__(
        self, config: configs.ConvDiscriminator, channels: int, size: tuple[int, ...], classes: int
    ) -> None:
        super().__init__()
        halvings = len(config.mult) - config.full_blocks
        if len(size) != 2:
            raise UserError(
                f"the discriminator conv needs images; for vectors of length {channels} use the discriminator mlp"
            )
        if any(side % 2**halvings for side in size):
            raise UserError(
                f"images of {size[0]}x{size[1]} cannot be halved {halvings} times: give the discriminator's `mult` "
                "fewer entries, or raise its `full_blocks`"
            )
        width = config.embedding
        self.group = config.group
        self.step = Positional(width, endpoint=True)
        self.label = nn.Embedding(classes, width) if classes else None
        self.embedding = nn.Sequential(
            scaled_uniform(nn.Linear(width, width)),
            nn.LeakyReLU(0.2),
            scaled_uniform(nn.Linear(width, width)),
        )
        self.input = scaled_uniform(nn.Conv2d(2 * channels, config.channels, 1))
        self.blocks = nn.ModuleList()
        inner = config.channels
        for i, multiple in enumerate(config.mult):
            outer = config.channels * multiple
            self.blocks.append(DownBlock(inner, outer, width, down=i >= config.full_blocks))
            inner = outer
        self.head = scaled_uniform(nn.Conv2d(inner + 1, inner, 3, padding=1), config.head_scale)
        self.output = scaled_uniform(nn.Linear(inner, 1))

    def forward(self, x: Tensor, x_next: Tensor, k: Tensor, label: Tensor | None = None) -> Tensor:
        emb = self.embedded(k.to(x.dtype), label)
        h = self.input(torch.cat([x, x_next], dim=1))
        for block in self.blocks:
            h = block(h, emb)
        h = leaky(self.head(minibatch_std(h, self.group)))
        return self.output(h.sum(dim=(2, 3))).squeeze(1)

    def embedded(self, k: Tensor, label: Tensor | None) -> Tensor:
        with full_precision(k.device):
            emb = self.embedding(self.step(k))
            return leaky(emb if self.label is None or label is None else emb + self.label(label))


class MlpDiscriminator(Discriminator):
    """A leaky MLP on both states and the embeddings of step and label."""

    def __init__(self, config: configs.MlpDiscriminator, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.step = StepEmbedding(config.embedding, classes)
        inputs = 2 * math.prod(shape) + self.step.width
        self.layers = leaky_mlp(inputs, config.width, config.layers, 1)

    def forward(self, x: Tensor, x_next: Tensor, k: Tensor, label: Tensor | None = None) -> Tensor:
        step = self.step(k.to(x.dtype), label)
        return self.layers(torch.cat([x.flatten(1), x_next.flatten(1), step], dim=1)).squeeze(1)


def build_discriminator(
    config: configs.DiscriminatorConfig, shape: tuple[int, ...], classes: int = 0
) -> Discriminator:
    """The discriminator of a config for states of a shape, (C, H, W) or (D,).

    Raises:
        UserError: the shape does not fit the config (vectors for convolutions, too many halvings).
    """
    if isinstance(config, configs.MlpDiscriminator):
        return MlpDiscriminator(config, shape, classes)
    return ConvDiscriminator(config, shape[0], tuple(shape[1:]), classes)
