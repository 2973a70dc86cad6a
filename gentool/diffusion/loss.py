"""The denoising loss: L = E w(sigma) mean|D(x0 + sigma n; sigma) - x0|^2, per sample and at given draws.

The squared error is the mean over pixels (EDM's code sums them; adaptive optimisers hide the difference,
clipping and private training do not). Source: EDM, eq. 2 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gentool.diffusion import times as laws
from gentool.diffusion.config import DiffusionConfig
from gentool.diffusion.convert import per_sample
from gentool.diffusion.denoiser import Denoiser
from gentool.diffusion.loss_config import WeightConfig
from gentool.diffusion.precond import Precond
from gentool.diffusion.times import Times, uniforms


class DenoiseFunction(Protocol):
    """A `Denoiser`, or a function of its parameters bound by `torch.func.functional_call`."""

    def __call__(
        self, x: Tensor, sigma: Tensor, label: Tensor | None, augment: Tensor | None, /
    ) -> Tensor: ...


class Draws(NamedTuple):
    """Randomness of one loss: u (B, K) float64 in [0, 1) and noise (B, K, ...) of unit scale."""

    u: Tensor
    noise: Tensor


Weight = Callable[[Tensor], Tensor]
"""sigma (B,) -> weight of the squared x0 error (B,)."""


class Loss(Protocol):
    """Per-sample losses at given draws: `DiffusionLoss`, or another process's.

    `stratified`: an example's draws depend on the others'.
    """

    @property
    def stratified(self) -> bool: ...

    def draw(
        self, count: int, shape: Sequence[int], generator: torch.Generator, *, draws: int = 1
    ) -> Draws: ...

    def __call__(
        self,
        denoiser: DenoiseFunction,
        x0: Tensor,
        label: Tensor | None,
        augment: Tensor | None,
        u: Tensor,
        noise: Tensor,
        /,
    ) -> Tensor: ...


@dataclass(frozen=True)
class DiffusionLoss:
    """Per-sample denoising loss of one law of noise levels and one weight.

    Every operation is per sample and without branches on data, so `torch.func.vmap(grad(...))` gives
    per-sample gradients, with K draws averaged inside each (noise multiplicity).
    """

    times: Times
    weight: Weight
    stratified: bool = False

    def draw(
        self,
        count: int,
        shape: Sequence[int],
        generator: torch.Generator,
        *,
        draws: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> Draws:
        """Draws for `count` samples of shape `shape`, K = `draws` each, on the generator's device.

        A family with another noise law (PFGM++) replaces `noise` by unit-scale draws of its own.
        """
        u = uniforms(count, draws, generator, stratified=self.stratified, rank=rank, world=world)
        noise = torch.randn(count, draws, *shape, generator=generator, device=generator.device)
        return Draws(u, noise)

    def __call__(
        self,
        denoiser: DenoiseFunction,
        x0: Tensor,
        label: Tensor | None,
        augment: Tensor | None,
        u: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """Losses (B,) of x0 (B, ...) at the draws u (B, K), noise (B, K, ...): mean over K draws and over
        pixels.

        label (B,) and augment (B, A) are shared by a sample's K draws.
        """
        at = self.points(x0, label, augment, u, noise)
        return self.errors(at, denoiser(at.x, at.sigma, at.label, at.augment)).view(u.shape).mean(1)

    def points(
        self, x0: Tensor, label: Tensor | None, augment: Tensor | None, u: Tensor, noise: Tensor
    ) -> Points:
        """What the network is asked, each sample's K draws in a run."""
        draws = u.shape[1]
        x0 = repeat(x0, draws)
        sigma = self.times(u.flatten()).to(x0)
        return Points(
            x0,
            x0 + per_sample(sigma, x0) * noise.flatten(0, 1).to(x0),
            sigma,
            None if label is None else repeat(label, draws),
            None if augment is None else repeat(augment, draws),
        )

    def errors(self, at: Points, prediction: Tensor) -> Tensor:
        """(B K,) weighted squared errors."""
        return self.weight(at.sigma) * (prediction - at.x0).square().flatten(1).mean(1)


class Points(NamedTuple):
    """Data and noisy states (B K, ...), noise levels, labels and augmentation labels (B K,)."""

    x0: Tensor
    x: Tensor
    sigma: Tensor
    label: Tensor | None
    augment: Tensor | None


def repeat(v: Tensor, draws: int) -> Tensor:
    """(B, ...) -> (B K, ...), each row K times in a run."""
    return v.unsqueeze(1).expand(-1, draws, *v.shape[1:]).flatten(0, 1)


@dataclass(frozen=True)
class NetworkWeight:
    """1/c_out^2: the squared error of the network's own target."""

    precond: Precond

    def __call__(self, sigma: Tensor) -> Tensor:
        return self.precond(sigma).c_out ** -2


@dataclass(frozen=True)
class MinSnr:
    """min(1/sigma^2, gamma) (Hang et al. 2023, x0 form)."""

    gamma: float

    def __call__(self, sigma: Tensor) -> Tensor:
        return (sigma**-2).clamp(max=self.gamma)


@dataclass(frozen=True)
class SoftMinSnr:
    """1/(sigma^2 + sigma_data^2) (Crowson et al. 2024)."""

    sigma_data: float

    def __call__(self, sigma: Tensor) -> Tensor:
        return 1 / (sigma**2 + self.sigma_data**2)


@dataclass(frozen=True)
class EdmWeight:
    """(sigma^2 + sigma_data^2)/(sigma sigma_data)^2 (EDM, table 1)."""

    sigma_data: float

    def __call__(self, sigma: Tensor) -> Tensor:
        return self.sigma_data**-2 + sigma**-2


def x0_weight(sigma: Tensor) -> Tensor:
    return torch.ones_like(sigma)


def eps_weight(sigma: Tensor) -> Tensor:
    return sigma**-2


def v_weight(sigma: Tensor) -> Tensor:
    return 1 + sigma**-2


def flow_weight(sigma: Tensor) -> Tensor:
    return (1 + 1 / sigma) ** 2


def build_weight(config: WeightConfig, precond: Precond) -> Weight:
    """The weight of a recipe's `loss.weight` block."""
    match config.name:
        case "network":
            return NetworkWeight(precond)
        case "min-snr":
            return MinSnr(config.gamma)
        case "soft-min-snr":
            return SoftMinSnr(config.sigma_data)
        case "edm":
            return EdmWeight(config.sigma_data)
        case "x0":
            return x0_weight
        case "eps":
            return eps_weight
        case "v":
            return v_weight
        case "flow":
            return flow_weight


def build(config: DiffusionConfig, denoiser: Denoiser) -> DiffusionLoss:
    """The denoising loss of a recipe's `model:` block for the denoiser built from the same block."""
    times = config.chosen_times
    return DiffusionLoss(
        laws.build(times, denoiser.process),
        build_weight(config.loss.weight, denoiser.precond),
        times.stratified,
    )
