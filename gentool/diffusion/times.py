"""Laws of the training noise level, each as its inverse distribution function: u in [0, 1) -> sigma, in
float64.

Stratified or per-sample draws are a matter of u alone (`uniforms`). Sources: EDM, table 1; the
laws of k-diffusion (Crowson et al. 2024) and of SD3 (Esser et al. 2024) from their formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gentool.diffusion.loss_config import TimesConfig
from gentool.diffusion.process import Process
from gentool.diffusion.processes import Ddpm

Times = Callable[[Tensor], Tensor]
"""u (any shape, float64 in [0, 1)) -> sigma (same shape, float64)."""


def uniforms(
    count: int,
    draws: int,
    generator: torch.Generator,
    *,
    stratified: bool = False,
    rank: int = 0,
    world: int = 1,
) -> Tensor:
    """(count, draws) float64 in [0, 1) from an explicit generator (its device is the result's).

    Stratified: over the `world * count * draws` numbers of the global batch, one falls in each of as many
    equal cells, ranks interleaved; a sample's draws are spread over the whole interval. Ranks then need
    generators of their own seed, and equal counts.
    """
    u = torch.rand(count, draws, generator=generator, dtype=torch.float64, device=generator.device)
    if not stratified:
        return u
    cells = torch.arange(count * draws, device=u.device).view(draws, count).T
    return (rank + world * cells + u) / (world * count * draws)


@dataclass(frozen=True)
class LogNormal:
    """ln sigma ~ N(mean, std^2); with `std_low`, half normals of two widths joined at the mode."""

    mean: float
    std: float
    std_low: float

    def __call__(self, u: Tensor) -> Tensor:
        # Each side of the join has probability in proportion to its width; tails from u and 1 - u keep their
        # digits.
        low = self.std_low / (self.std_low + self.std)
        below = (u.clamp(min=2.0**-54) / (2 * low)).clamp(max=0.5)
        above = ((1 - u) / (2 * (1 - low))).clamp(max=0.5)
        z = torch.where(
            u < low, self.std_low * torch.special.ndtri(below), -self.std * torch.special.ndtri(above)
        )
        return (self.mean + z).exp()


@dataclass(frozen=True)
class LogLogistic:
    """ln sigma ~ Logistic(mean, scale), restricted to [sigma_min, sigma_max]."""

    mean: float
    scale: float
    sigma_min: float
    sigma_max: float

    def __call__(self, u: Tensor) -> Tensor:
        low, high = (1 / (1 + math.exp(-self._z(s))) for s in (self.sigma_min, self.sigma_max))
        return (self.mean + self.scale * torch.logit(low + u * (high - low))).exp()

    def _z(self, sigma: float) -> float:
        return (math.log(sigma) - self.mean) / self.scale


@dataclass(frozen=True)
class LogUniform:
    """ln sigma ~ U(ln sigma_min, ln sigma_max)."""

    sigma_min: float
    sigma_max: float

    def __call__(self, u: Tensor) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** u


@dataclass(frozen=True)
class UniformTime:
    """t ~ U(train_t_min, t_max) of the process."""

    process: Process

    def __call__(self, u: Tensor) -> Tensor:
        low, high = self.process.train_t_min, self.process.t_max
        return self.process.sigma(low + u * (high - low))


@dataclass(frozen=True)
class Discrete:
    """A level of the DDPM process, uniformly."""

    process: Ddpm

    def __call__(self, u: Tensor) -> Tensor:
        n = self.process.levels
        return self.process.sigma(((u * n).floor() + 1) / n)


@dataclass(frozen=True)
class Mode:
    """Flow time t = 1 - u - scale (cos^2(pi u/2) - 1 + u), sigma = t/(1 - t) within the range (SD3, eq.
    20)."""

    scale: float
    sigma_min: float
    sigma_max: float

    def __call__(self, u: Tensor) -> Tensor:
        t = 1 - u - self.scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
        return (t / (1 - t)).clamp(self.sigma_min, self.sigma_max)


@dataclass(frozen=True)
class Cosine:
    """Uniform phase: sigma = scale tan a, a ~ U between the ends of the range (v-diffusion)."""

    scale: float
    sigma_min: float
    sigma_max: float

    def __call__(self, u: Tensor) -> Tensor:
        low, high = math.atan(self.sigma_min / self.scale), math.atan(self.sigma_max / self.scale)
        return self.scale * torch.tan(low + u * (high - low))


@dataclass(frozen=True)
class InterpolatedCosine:
    """Log-SNR interpolated between two cosine laws shifted to noise resolutions (simple diffusion).

    A law shifted by r = image_size/noise_size is `Cosine` with scale r: at u its log-SNR is mixed, u of
    `high` and 1 - u of `low`, so that the noisy end follows `noise_high`.
    """

    image_size: int
    noise_low: int
    noise_high: int
    scale: float
    sigma_min: float
    sigma_max: float

    def __call__(self, u: Tensor) -> Tensor:
        low, high = (
            Cosine(self.scale * self.image_size / size, self.sigma_min, self.sigma_max)(u).log()
            for size in (self.noise_low, self.noise_high)
        )
        return torch.lerp(low, high, u).exp()


def build(config: TimesConfig, process: Process) -> Times:
    """The law of a recipe's `loss.times` block over the process's training range."""
    ends = process.train_sigma_min, process.sigma_max
    match config.name:
        case "log-normal" | "logit-normal":
            return LogNormal(config.mean, config.std, config.std)
        case "split-log-normal":
            return LogNormal(config.mean, config.std_high, config.std_low)
        case "log-logistic":
            return LogLogistic(config.mean, config.scale, *ends)
        case "log-uniform":
            return LogUniform(*ends)
        case "uniform-t":
            return UniformTime(process)
        case "discrete":
            if not isinstance(process, Ddpm):
                raise TypeError("the schema lets discrete levels through with the ddpm process alone")
            return Discrete(process)
        case "mode":
            return Mode(config.scale, *ends)
        case "cosine":
            return Cosine(config.scale, *ends)
        case "cosine-interpolated":
            return InterpolatedCosine(
                config.image_size, config.noise_low, config.noise_high, config.scale, *ends
            )
