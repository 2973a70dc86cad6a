"""Variances of ancestral steps, learned by the variational bound of the whole chain.

Source: improved DDPM (Nichol and Dhariwal 2021, 2102.09672), sections 2.1 and 3.1; v's range is the released code's.

Between the noise levels s > t of a chain, p(x_t | x_s) is normal with the posterior's mean at the predicted x0 and a
variance between two bounds: the posterior's for known data, and the forward step's, which is right for data N(0, I).
A network says where by v: log variance = (1 - f) log small + f log large, f = (v + 1)/2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from gentool.diffusion.convert import per_sample
from gentool.diffusion.loss import DenoiseFunction, DiffusionLoss, Draws
from gentool.diffusion.process import Process
from gentool.diffusion.processes import Ddpm

Number = TypeVar("Number", float, Tensor)


def variance_bounds(
    sigma_s: Number, sigma_t: Number, alpha_s: Number, alpha_t: Number
) -> tuple[Number, Number]:
    """(small, large) variances of the canonical state at t, given that at s > t; small is 0 at sigma_t = 0."""
    small = sigma_t**2 * (1 - (sigma_t / sigma_s) ** 2)
    return small, (alpha_s / alpha_t) ** 2 * (sigma_s**2 - sigma_t**2)


class VariationalTerms:
    """The terms L_1 .. L_N of the bound of one chain, L_n at the level n - 1 = 0 .. N-1 where a step starts.

    log p(x0) >= -sum_n L_n - KL(q(x_N | x0) || N(0, I)).
    """

    def __init__(self, process: Ddpm) -> None:
        t = torch.arange(process.levels + 1, dtype=torch.float64) / process.levels
        sigma, alpha = process.sigma(t), process.alpha(t)
        small, large = variance_bounds(sigma[1:], sigma[:-1], alpha[1:], alpha[:-1])
        # the last step ends on data, with no posterior's variance: the one before stands in, for x_t itself
        small[0] = small[1] * alpha[1] ** 2
        self.log_small, self.log_large = small.log(), large.log()
        self.from_x0 = 1 - (sigma[:-1] / sigma[1:]) ** 2

    def __call__(self, x0: Tensor, prediction: Tensor, v: Tensor, level: Tensor) -> Tensor:
        """(B,) bits per value, for data x0 in [-1, 1], its prediction and v (B, ...), and int64 levels (B,)."""

        def at(table: Tensor) -> Tensor:
            return per_sample(table.to(x0.device)[level].to(x0.dtype), x0)

        low = at(self.log_small)
        log_variance = low + (v + 1) / 2 * (at(self.log_large) - low)
        shift = at(self.from_x0) * (x0 - prediction)
        divergence = 0.5 * (
            log_variance - low - 1 + (low - log_variance).exp() + shift**2 * (-log_variance).exp()
        )
        decoded = -log_pixel(x0, prediction, (log_variance / 2).exp())
        nats = torch.where(per_sample(level, x0) == 0, decoded, divergence)
        return nats.flatten(1).mean(1) / math.log(2)


def log_pixel(x0: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log of the share of N(mean, std^2) that rounds to the pixel x0, one of 256 from -1 to 1; the outer two take the
    tails (DDPM, 2006.11239, eq. 13, with the normal distribution itself)."""
    half = 1 / 255
    upper, lower = (x0 + half - mean) / std, (x0 - half - mean) / std
    # on the side of the mean where the tails, and not numbers near 1, are subtracted
    flip = lower > 0
    upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    first = torch.where(flip, x0 > 1 - half, x0 < -1 + half)
    last = torch.where(flip, x0 < -1 + half, x0 > 1 - half)
    log_upper = torch.where(last, 0.0, torch.special.log_ndtr(upper))
    log_lower = torch.special.log_ndtr(lower)
    gap = torch.where(first, -torch.inf, log_lower - log_upper).clamp(max=-1e-7)
    return log_upper + torch.log1p(-gap.exp())


def hybrid(simple: DiffusionLoss, process: Process, weight: float) -> HybridLoss:
    """The loss of a recipe whose `loss.hybrid` is `weight`."""
    if not isinstance(process, Ddpm):
        raise TypeError("the schema lets the hybrid loss through with the ddpm process alone")
    return HybridLoss(simple, VariationalTerms(process), weight)


class WithVariance(Protocol):
    """A `Denoiser` that learned variances."""

    with_variance: Callable[[Tensor, Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class HybridLoss:
    """L_simple + weight sum_n L_n, the second term in bits per value, by one level drawn; called as `DiffusionLoss`.

    The bound teaches v alone: in it the prediction of x0 is a constant (2102.09672, section 3.1).
    """

    simple: DiffusionLoss
    terms: VariationalTerms
    weight: float

    @property
    def stratified(self) -> bool:
        return self.simple.stratified

    def draw(self, count: int, shape: Sequence[int], generator: torch.Generator, *, draws: int = 1) -> Draws:
        return self.simple.draw(count, shape, generator, draws=draws)

    def __call__(
        self,
        denoiser: DenoiseFunction,
        x0: Tensor,
        label: Tensor | None,
        augment: Tensor | None,
        u: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """Losses (B,); arguments as `DiffusionLoss`, the denoiser one that has `with_variance`."""
        at = self.simple.points(x0, label, augment, u, noise)
        ask: WithVariance = denoiser  # type: ignore[assignment]
        prediction, v = ask.with_variance(at.x, at.sigma, at.label, at.augment)
        levels = len(self.terms.log_small)
        bound = self.terms(at.x0, prediction.detach(), v, (u.flatten() * levels).long())
        losses = self.simple.errors(at, prediction) + self.weight * levels * bound
        return losses.view(u.shape).mean(1)
