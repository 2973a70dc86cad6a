"""Generators of a standard normal latent, as those see them who lead, invert or read the latent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LatentGenerator:
    """A trained generator in two halves, both differentiable and without randomness: (z, label) -> w -> picture.

    Attributes:
        latent: dimensions of z, standard normal.
        width: dimensions of w, the space between, which is easier to read than z, and which carries the label; z itself
            (and the label, one-hot) where there is none.
        map: z (B, latent) and labels (B,) int64, None for a generator without classes -> w (B, width).
        pictures: w (B, width) -> (B, C, H, W), nominally in [-1, 1]; where there are several layers, of (B, layers,
            width) too.
        layers: parts of the picture's making that take w, each of which may be given one of its own.
    """

    latent: int
    width: int
    map: Callable[[Tensor, Tensor | None], Tensor]
    pictures: Callable[[Tensor], Tensor]
    layers: int = 1
