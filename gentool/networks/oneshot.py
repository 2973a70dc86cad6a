"""One-shot class-conditional generators: a latent and a label to an image in [-1, 1].

BatchNorm makes the images of a training batch depend on each other. That is sound even in private training as long as
the generator sees latents alone, and real images only act on it through a gradient that has been made private.
In eval mode each image depends on its own latent and label: `measure_statistics` fixes the statistics.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from gentool.errors import UserError
from gentool.networks import oneshot_config as configs


class Generator(nn.Module, ABC):
    """A function of a latent uniform in [0, 1)^latent and a label.

    Attributes:
        latent: dimensions of the latent.
        classes: 0 for an unconditional generator, which ignores labels.
    """

    latent: int
    classes: int

    @abstractmethod
    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, latent) and label (B,) int64 in 0..classes-1 -> (B, channels, size, size) in [-1, 1]."""


class Dcgan(Generator):
    """ConvT to size/4, ConvT to size/2, ConvT to size, conv3x3, tanh, with BatchNorm and LeakyReLU between.

    DP-Sinkhorn's network of MNIST (arXiv 2111.01177, appendix), after Radford et al. 2015.
    """

    def __init__(self, config: configs.DcganGenerator, channels: int, size: int, classes: int) -> None:
        super().__init__()
        if size % 4 or size < 8:
            raise UserError(f"network dcgan makes images of a side that 4 divides, from 8 up; not {size}")
        self.latent, self.classes = config.latent, classes
        width = config.channels
        self.embed = nn.Embedding(classes, config.embedding) if classes else None
        inputs = config.latent + (config.embedding if classes else 0)
        self.blocks = nn.Sequential(
            *_up(inputs, 4 * width, size // 4, stride=1, padding=0),
            *_up(4 * width, 2 * width, 4, stride=2, padding=1),
            *_up(2 * width, width, 4, stride=2, padding=1),
        )
        self.output = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        given = z if self.embed is None else torch.cat([z, self.embed(label)], 1)
        return torch.tanh(self.output(self.blocks(given[:, :, None, None])))


def _up(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> list[nn.Module]:
    """No bias: BatchNorm would take it away again."""
    return [
        nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.2),
    ]


class ClassBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose gain and bias are a learned row each of the label; plain BatchNorm without classes."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, affine=classes == 0)
        self.gain = nn.Embedding(classes, channels) if classes else None
        self.shift = nn.Embedding(classes, channels) if classes else None

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        h = super().forward(x)
        if self.gain is None or self.shift is None:
            return h
        return h * (1 + self.gain(label))[:, :, None, None] + self.shift(label)[:, :, None, None]


class UpBlock(nn.Module):
    """norm, ReLU, double, conv3, norm, ReLU, conv3, beside double and conv1."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm0 = ClassBatchNorm(channels, classes)
        self.conv0 = spectral_norm(nn.Conv2d(channels, channels, 3, padding=1))
        self.norm1 = ClassBatchNorm(channels, classes)
        self.conv1 = spectral_norm(nn.Conv2d(channels, channels, 3, padding=1))
        self.skip = spectral_norm(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        h = self.conv0(_double(F.relu(self.norm0(x, label))))
        h = self.conv1(F.relu(self.norm1(h, label)))
        return h + self.skip(_double(x))


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class Biggan(Generator):
    """A linear map to 4x4, residual blocks up to the size, norm, ReLU, conv3x3, tanh.

    Spectral norm on every convolution and linear map, orthogonal initial weights, no attention (Brock et al. 2019;
    DP-Sinkhorn's network of CelebA, arXiv 2111.01177, appendix).
    """

    def __init__(self, config: configs.ResGenerator, channels: int, size: int, classes: int) -> None:
        super().__init__()
        levels = round(math.log2(size / 4))
        if levels < 1 or size != 4 << levels:
            raise UserError(f"network biggan makes images of side 8, 16, 32 ...; not {size}")
        self.latent, self.classes = config.latent, classes
        width = config.channels
        self.input = spectral_norm(nn.Linear(config.latent, width * 16))
        self.blocks = nn.ModuleList([UpBlock(width, classes) for _ in range(levels)])
        self.norm = nn.BatchNorm2d(width)
        self.output = spectral_norm(nn.Conv2d(width, channels, 3, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
                nn.init.orthogonal_(_raw_weight(module))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.input(z).unflatten(1, (-1, 4, 4))
        for block in self.blocks:
            h = block(h, label)
        return torch.tanh(self.output(F.relu(self.norm(h))))


def _raw_weight(module: nn.Module) -> Tensor:
    """The weight that is learned: the one under the spectral norm, where there is one."""
    return dict(module.named_parameters()).get("parametrizations.weight.original", module.weight)  # type: ignore[arg-type]


class Mlp(Generator):
    """Latent and one-hot label through fully connected layers with ReLU; tanh at the end."""

    def __init__(self, config: configs.MlpGenerator, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.latent, self.classes = config.latent, classes
        self.shape = (channels, size, size)
        widths = [config.latent + classes, *[config.width] * config.layers]
        hidden = [m for i, o in pairwise(widths) for m in (nn.Linear(i, o), nn.ReLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(widths[-1], math.prod(self.shape)))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        if self.classes and label is not None:
            z = torch.cat([z, F.one_hot(label, self.classes).to(z)], 1)
        return torch.tanh(self.layers(z)).unflatten(1, self.shape)


@torch.no_grad()
def measure_statistics(generator: Generator, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
    """Sets BatchNorm's statistics, and the norms of spectral norm, to those of the present weights.

    Averaged weights have statistics of their own, which those gathered along the way are not.

    Args:
        batches: latents and labels; the statistics are the plain mean over them.
    """
    norms = [m for m in generator.modules() if isinstance(m, nn.BatchNorm2d)]
    momentum, training = [norm.momentum for norm in norms], generator.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for the plain mean
    generator.train()
    for z, label in batches:
        generator(z, label)
    generator.train(training)
    for norm, old in zip(norms, momentum):
        norm.momentum = old
