"""What an attacker may do to a picture: stay within a ball around it, and within the range of pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gentool.attacks.options import Norm, check_eps
from gentool.diffusion.convert import per_sample
from gentool.errors import UserError
from gentool.noise import Noise

ROUNDING = 1e-7
"""More than half a unit in the last place of a float32 pixel in [0, 1]."""


@dataclass(frozen=True)
class Threat:
    """All pictures within `eps` of the original, in [0, 1].

    Attributes:
        norm: `linf`, the largest change of a pixel; `l2`, the Euclidean length of the change.
        eps: the radius, in units of [0, 1] pixels: 8/255, not 8.

    Raises:
        UserError: a radius that is none, or is told in another unit.
    """

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        check_eps(self.norm, self.eps)

    def project(self, y: Tensor, x: Tensor) -> Tensor:
        """The points y (B, ...) brought into the ball around x (B, ...) and into [0, 1].

        Exact: no rounding carries a pixel out of either, so `within` may be asserted without a tolerance. The
        pixels of x must be in [0, 1]; then cutting to [0, 1] brings y nearer to x, and does not undo the ball.
        """
        if self.norm == "linf":
            low, high = x.double() - self.eps, x.double() + self.eps
            least, most = (
                low.to(x.dtype),
                high.to(x.dtype),
            )  # rounded to the nearest: towards x where that is outside
            least = torch.where(least < low, torch.nextafter(least, x), least)
            most = torch.where(most > high, torch.nextafter(most, x), most)
            return torch.minimum(torch.maximum(y, least), most).clamp(0, 1)
        y = y.clamp(0, 1)
        change = y.double() - x.double()
        length = change.flatten(1).norm(dim=1)
        room = max(0.0, self.eps - ROUNDING * math.sqrt(x[0].numel()))
        short = per_sample(room / length.clamp(min=1e-30), change)
        inside = per_sample(length <= self.eps, change)
        return torch.where(inside, y, (x.double() + change * short).to(y.dtype).clamp(0, 1))

    def distance(self, y: Tensor, x: Tensor) -> Tensor:
        """(B,) float64: how far each point is from its original, in this norm."""
        change = (y.double() - x.double()).flatten(1)
        return change.abs().amax(1) if self.norm == "linf" else change.norm(dim=1)

    def within(self, y: Tensor, x: Tensor) -> bool:
        """Whether all points keep to the threat, with no tolerance."""
        return bool((self.distance(y, x) <= self.eps).all() and (y >= 0).all() and (y <= 1).all())

    def direction(self, gradient: Tensor) -> Tensor:
        """The step of length 1 in this norm that raises a linear function most; 0 where the gradient is."""
        if self.norm == "linf":
            return gradient.sign()
        return gradient / per_sample(gradient.flatten(1).norm(dim=1).clamp(min=1e-30), gradient)

    def random(self, x: Tensor, indices: Sequence[int], seed: int) -> Tensor:
        """A point drawn uniformly from the ball around each x (cut to [0, 1]), by picture and seed alone."""
        noise = Noise(seed, indices, x.shape[1:], x.device, x.dtype)
        change = noise.normal("start")
        if self.norm == "linf":
            change = torch.erf(change / math.sqrt(2))  # uniform on (-1, 1), pixel by pixel
        else:
            radius = noise.uniform("radius").pow(1 / x[0].numel()).to(x)
            change = self.direction(change) * per_sample(radius, change)
        return self.project(x + self.eps * change, x)


def check_pictures(x: Tensor, name: str) -> None:
    """Refuses what is no batch of pictures in [0, 1].

    Raises:
        UserError: not floats, not finite, or in another range; says which was expected.
    """
    if not x.is_floating_point():
        raise UserError(f"attacks take float pictures in [0, 1], not {x.dtype}: divide by 255", name)
    if not bool(x.isfinite().all()):
        raise UserError("there are pixels that are not finite (NaN or infinity)", name)
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        hint = (
            ": these look like pictures in [-1, 1]; give (x + 1) / 2"
            if -1 <= low < 0 and high <= 1
            else ": these look like bytes; divide by 255"
            if low >= 0 and high <= 255
            else ""
        )
        raise UserError(
            f"attacks take pictures in [0, 1]; here they reach from {low:.4g} to {high:.4g}{hint}", name
        )
