"""Rules that compare the labelled with the unlabelled prediction: plain, projected, adaptive. All work on x0.

Norms, projections and cosines are taken in float64: the projection cancels, and a sum whose order depends on
the batch size then leaves no trace in a float32 sample.

Sources: Ho & Salimans 2022 (arXiv:2207.12598) eq. 6 with w = 1 + their w; Kynkäänniemi et al. 2024
(arXiv:2404.07724); Lin et al. 2024 (arXiv:2305.08891) sec. 3.4; Sadat et al. 2024 (arXiv:2410.02416);
Castillo et al. 2023 (arXiv:2312.12487).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gentool.diffusion.guidance.compose import Predictions, Rows, Wanted, per_sample


def _inside(interval: tuple[float, float] | None, sigma: Tensor) -> Rows:
    if interval is None:
        return True
    return (interval[0] <= sigma) & (sigma <= interval[1])


@dataclass(frozen=True)
class ClassifierFree:
    """D_null + w (D_label - D_null).

    Args:
        scale: w; 1 and 0 leave out the prediction that does not count.
        interval: [lo, hi] of sigma; outside, w is 1.
        rescale: phi in [0, 1]: multiply by 1 + phi (std(D_label) / std(D) - 1), std over a sample's values.
    """

    scale: float
    interval: tuple[float, float] | None = None
    rescale: float = 0.0

    def wants(self, sigma: Tensor, memory: Any) -> Wanted:
        if self.scale == 1:
            return Wanted()
        inside = _inside(self.interval, sigma)
        return Wanted(labelled=False if self.scale == 0 and not self.rescale else inside, unlabelled=inside)

    def correct(self, at: Predictions, memory: Any) -> tuple[Tensor, None]:
        correction = (self.scale - 1) * (at.labelled - at.unlabelled)
        if self.rescale:
            guided = at.labelled + correction
            plain, size = (d.flatten(1).double().std(dim=1) for d in (at.labelled, guided))
            ratio = torch.where(size > 0, plain / size, 1)
            factor = (self.rescale * (ratio - 1)).to(guided.dtype)
            correction = correction + guided * per_sample(factor, guided)
        return correction, None


@dataclass(frozen=True)
class Projected:
    """Adaptive projected guidance: D_label + (w - 1)(d_orth + eta d_par), per sample over all its values.

    d is D_label - D_null after momentum (d + momentum * last d) and after its norm is clipped to the radius;
    d_par is its projection on D_label, which is what saturates.

    Args:
        radius, radius_rms: the bound of the norm, as it is or times sqrt(values of a sample); at most one.
    """

    scale: float
    interval: tuple[float, float] | None = None
    eta: float = 0.0
    momentum: float = 0.0
    radius: float | None = None
    radius_rms: float | None = None

    def wants(self, sigma: Tensor, memory: Tensor | None) -> Wanted:
        if self.scale == 1:
            return Wanted()
        inside = _inside(self.interval, sigma)
        return Wanted(labelled=inside, unlabelled=inside)

    def correct(self, at: Predictions, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        plain = at.labelled.flatten(1).double()
        difference = plain - at.unlabelled.flatten(1).double()
        inside = _inside(self.interval, at.sigma)
        if self.momentum:
            last = torch.zeros_like(difference) if memory is None else memory
            difference = difference + self.momentum * last
            memory = difference
            if isinstance(inside, Tensor):
                memory = torch.where(inside[:, None], difference, last)
                difference = torch.where(inside[:, None], difference, 0)
        clipped = difference * self._clip(difference)
        along = (clipped * plain).sum(1, keepdim=True) / _positive(plain.square().sum(1, keepdim=True))
        parallel = along * plain
        step = (self.scale - 1) * (clipped - parallel + self.eta * parallel)
        return step.to(at.labelled.dtype).view_as(at.labelled), memory

    def _clip(self, difference: Tensor) -> Tensor | float:
        radius = self.radius
        if self.radius_rms is not None:
            radius = self.radius_rms * math.sqrt(difference.shape[1])
        if radius is None:
            return 1.0
        return (radius / _positive(difference.norm(dim=1, keepdim=True))).clamp(max=1)


@dataclass(frozen=True)
class Adaptive:
    """Classifier-free guidance of a sample until cos(D_label, D_null) > threshold; then plain, for good.

    The paper takes the cosine of eps, which is near 1 at high noise whatever the label (both are near x /
    sigma): it would stop at the first step. That of x0 rises as the sample settles.
    """

    scale: float
    interval: tuple[float, float] | None = None
    threshold: float = 0.99

    def _active(self, sigma: Tensor, done: Tensor | None) -> Rows:
        inside = _inside(self.interval, sigma)
        return inside if done is None else inside & ~done

    def wants(self, sigma: Tensor, memory: Tensor | None) -> Wanted:
        if self.scale == 1:
            return Wanted()
        active = self._active(sigma, memory)
        return Wanted(labelled=active, unlabelled=active)

    def correct(self, at: Predictions, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        plain, null = at.labelled.flatten(1).double(), at.unlabelled.flatten(1).double()
        cosine = (plain * null).sum(1) / _positive(plain.norm(dim=1) * null.norm(dim=1))
        agreed = (cosine > self.threshold) & self._active(at.sigma, memory)
        done = agreed if memory is None else memory | agreed
        return (self.scale - 1) * (at.labelled - at.unlabelled), done


def _positive(norm: Tensor) -> Tensor:
    """Guards a division whose numerator is zero where the norm is."""
    return norm.clamp(min=torch.finfo(norm.dtype).tiny)
