"""Classifiers and purifiers whose worst case is known in a closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gentool.attacks.defence import Purified
from gentool.noise import Noise, mix

SHAPE = (1, 4, 4)


def linear(classes: int = 3, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Weights (K, D) and biases (K,) of a linear classifier of `SHAPE` pictures in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(classes, 16, generator=generator), torch.zeros(classes)


def logits_of(weights: Tensor, bias: Tensor, scale: float = 1.0):  # type: ignore[no-untyped-def]
    return lambda z: scale * (z.flatten(1) @ weights.T + bias)


def pictures(count: int = 6, seed: int = 1, low: float = 0.3, high: float = 0.7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(count, *SHAPE, generator=generator)


@dataclass
class Shrinking:
    """z -> gain z + spread eps + shift: a purifier with a known Jacobian. `graph=False` cuts gradients off."""

    gain: float = 1.0
    spread: float = 0.1
    shift: float = 0.0
    graph: bool = True
    seen: int = 0

    def __call__(
        self, x: Tensor, indices: Sequence[int], seed: int, *, draw: int | Sequence[int] = 0
    ) -> Tensor:
        draws = [draw] * len(x) if isinstance(draw, int) else list(draw)
        noise = Noise(seed, [mix(i, d) for i, d in zip(indices, draws)], x.shape[1:])
        self.seen += len(x)
        x = x if self.graph else x.detach()
        return self.gain * x + self.spread * noise.normal("purify") + self.shift


def purified(weights: Tensor, bias: Tensor, purify: Shrinking) -> Purified:
    return Purified(purify, logits_of(weights, bias), calls=5)
