"""The two diffusion priors: of the global latent, and of the latent points given it (LION, 2210.06978, section 3.2)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from gentool.diffusion.config import DdpmProcess
from gentool.diffusion.denoiser import Denoiser
from gentool.diffusion.precond import VpEps
from gentool.diffusion.process import Process
from gentool.diffusion.processes import Ddpm, build
from gentool.families.lion.config import LionModel
from gentool.networks.pvcnn_unet import CloudUNet
from gentool.networks.residual_mlp import VectorPrior

MIXED_START = -6.0


class WholeLevels(VpEps):
    """F is eps, trained at the levels of the chain alone: its derivative in the noise level means nothing."""

    continuous = False


class Condition(nn.Module):
    """What a prior is told, as a vector (B, width): an embedded class, a given vector, or nothing.

    A condition is a row of floats, so that it can stand beside a global latent: a class's number, or the vector itself.

    Attributes:
        columns: of a condition: 1 for a class, the vector's length, 0 for none.
        width: of the vector that comes of it; 0 for none.

    Args:
        vector: length of a given vector; 0 where none is given.
        width: None leaves a given vector as it is.
    """

    def __init__(self, config: LionModel, classes: int, vector: int, width: int | None = None) -> None:
        super().__init__()
        self.classes = classes
        self.columns, self.width = vector or min(classes, 1), 0
        self.embed: nn.Module | None = None
        if classes:
            self.width = width or config.condition
            self.embed = nn.Embedding(classes + 1, self.width)
        elif self.columns:
            self.width = width or self.columns
            self.embed = nn.Identity() if width is None else nn.Linear(self.columns, width)

    def forward(self, told: Tensor) -> Tensor | None:
        """Conditions (B, columns) -> (B, width)."""
        if self.embed is None:
            return None
        return self.embed(told[:, 0].long() if self.classes else told)


class StylePrior(nn.Module):
    """eps(z_t, t, condition) of the global latent (B, S)."""

    def __init__(self, config: LionModel, classes: int, vector: int) -> None:
        super().__init__()
        self.condition = Condition(config, classes, vector)
        self.network = VectorPrior(config.style_prior, config.style, self.condition.width)

    def forward(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """`label` is a condition (B, columns)."""
        told = None if label is None else self.condition(label)
        return self.network(x, c_noise + 1, told)  # the levels are told as 1 .. T, as published


class PointsPrior(nn.Module):
    """eps(h_t, t, z0, condition) of latent points (B, 3 + F, N)."""

    def __init__(self, config: LionModel, classes: int, vector: int) -> None:
        super().__init__()
        self.style = config.style
        self.condition = Condition(config, classes, vector, config.condition)
        # as wide as the wider of them, so that neither is squeezed through the other
        told = max(config.style, self.condition.width)
        self.mix = nn.Linear(config.style + self.condition.width, told) if self.condition.width else None
        prior = config.point_prior
        self.network = CloudUNet(
            prior.network,
            config.features,
            3 + config.features,
            told,
            prior.time,
            sampler=config.sampler,
        )

    def forward(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """`label` is the global latent and the condition side by side, (B, S + columns)."""
        style, told = cast(Tensor, label).to(x).tensor_split([self.style], dim=1)
        if self.mix is not None:
            style = self.mix(torch.cat([style, cast(Tensor, self.condition(told))], dim=1))
        return self.network(x[:, :3], x[:, 3:], style, c_noise + 1)


class Mixed(nn.Module):
    """eps = (1 - s) std(t) x_t + s F(x_t, t), s = sigmoid(logit): the first term is exact where the latent is N(0, 1).

    Source: LSGM (2106.05931), eq. 15. The logits are per dimension of a vector, per channel of points.
    """

    def __init__(self, network: nn.Module, process: Process, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.process = network, process
        self.logit = nn.Parameter(torch.full(shape, MIXED_START))

    def forward(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        levels = cast(Ddpm, self.process).levels
        std = self.process.std((c_noise.double() + 1) / levels).to(x)
        normal = x * std.view(-1, *[1] * (x.dim() - 1))
        return torch.lerp(normal, self.network(x, c_noise, label, augment).to(normal), self.logit.sigmoid())


class Priors(nn.Module):
    """Both priors as denoisers of the linear chain of 1000 levels (DDPM's).

    Attributes:
        columns: numbers in a condition, 0 for unconditional priors.

    Args:
        vector: length of the vectors that they are told in the place of classes; 0 for none.
    """

    def __init__(self, config: LionModel, classes: int, vector: int = 0) -> None:
        super().__init__()
        self.process = cast(Ddpm, build(DdpmProcess()))
        self.columns, self.null = vector or min(classes, 1), float(classes)
        style: nn.Module = StylePrior(config, classes, vector)
        points: nn.Module = PointsPrior(config, classes, vector)
        if config.mixed:
            style = Mixed(style, self.process, (config.style,))
            points = Mixed(points, self.process, (3 + config.features, 1))
        self.style = Denoiser(style, WholeLevels(self.process), self.process)
        self.points = Denoiser(points, WholeLevels(self.process), self.process)

    def nothing(self, told: Tensor) -> Tensor:
        """Rows (B, ...) that end in a condition, with one that says nothing: the null label, or zeros for a vector."""
        kept = told[:, : told.shape[1] - self.columns]
        return torch.cat([kept, told.new_full((len(told), self.columns), self.null)], dim=1)

    def losses(
        self, denoiser: Denoiser, x0: Tensor, level: Tensor, noise: Tensor, told: Tensor | None
    ) -> Tensor:
        """(B,) mean squared errors of the noise at levels (B,) in 0 .. T-1."""
        t = (level.double() + 1) / self.process.levels
        alpha, std = (
            v.to(x0).view(-1, *[1] * (x0.dim() - 1)) for v in (self.process.alpha(t), self.process.std(t))
        )
        eps = denoiser.network(alpha * x0 + std * noise, level.to(x0), told)
        return (eps - noise).square().flatten(1).mean(1)
