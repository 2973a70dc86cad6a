"""What is attacked and judged: classifiers of pictures in [0, 1], some of which draw noise first.

A `Defence` maps pictures, the pictures' numbers, a seed and a draw for each row to logits, and is a pure function of
them, so that a picture fares the same in every batch. Classifiers and purifiers are plain functions here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gentool.noise import Noise, mix

Logits = Callable[[Tensor], Tensor]
"""Pictures (B, C, H, W) in [-1, 1] -> logits (B, K)."""


class Purify(Protocol):
    """Pictures (B, C, H, W) in [-1, 1] -> purified ones; a row's noise is that of (seed, its index, its draw)."""

    def __call__(
        self, x: Tensor, indices: Sequence[int], seed: int, *, draw: int | Sequence[int] = 0
    ) -> Tensor: ...


class Defence(Protocol):
    """A classifier with whatever stands before it.

    Attributes:
        random: whether draws differ; where not, one draw is all there is.
        calls: network calls of the defence a picture.
        gradient_calls: of one picture's gradient: forward, repeated and backward passes together.
    """

    @property
    def random(self) -> bool: ...
    @property
    def calls(self) -> int: ...
    @property
    def gradient_calls(self) -> int: ...

    def __call__(self, x: Tensor, indices: Sequence[int], seed: int, draw: Sequence[int]) -> Tensor:
        """x (B, C, H, W) in [0, 1], indices and draws (B,) -> logits (B, K)."""
        ...


@dataclass(frozen=True)
class Undefended:
    """The classifier alone."""

    logits: Logits
    random: bool = False
    calls: int = 0
    gradient_calls: int = 0

    def __call__(self, x: Tensor, indices: Sequence[int], seed: int, draw: Sequence[int]) -> Tensor:
        return self.logits(2 * x - 1)


@dataclass(frozen=True)
class NoiseOnly:
    """The classifier on x + sigma eps in units of [-1, 1]: the control that shows what the model itself adds."""

    logits: Logits
    sigma: float
    random: bool = True
    calls: int = 0
    gradient_calls: int = 0

    def __call__(self, x: Tensor, indices: Sequence[int], seed: int, draw: Sequence[int]) -> Tensor:
        rows = [mix(i, "draw", d) for i, d in zip(indices, draw, strict=True)]
        noise = Noise(mix(seed, "noise-only"), rows, x.shape[1:], x.device, x.dtype)
        return self.logits(2 * x - 1 + self.sigma * noise.normal("jump"))


@dataclass(frozen=True)
class Purified:
    """Purification, then the classifier.

    Attributes:
        calls: network calls of one purification.
        replayed: whether a gradient runs every step once more before it goes back through it.
        random: whether the purifier draws noise.
    """

    purify: Purify
    logits: Logits
    calls: int = 0
    replayed: bool = True
    random: bool = True

    @property
    def gradient_calls(self) -> int:
        return (3 if self.replayed else 2) * self.calls

    def __call__(self, x: Tensor, indices: Sequence[int], seed: int, draw: Sequence[int]) -> Tensor:
        return self.logits(self.purify(2 * x - 1, indices, seed, draw=draw))


@dataclass(frozen=True)
class StraightThrough:
    """A `Purified` whose backward pass takes the purifier for the identity (BPDA, Athalye et al. 2018).

    Its outputs are the defence's own; only gradients differ. Exact where the purifier is x + constant.
    """

    purified: Purified

    @property
    def random(self) -> bool:
        return self.purified.random

    @property
    def calls(self) -> int:
        return self.purified.calls

    @property
    def gradient_calls(self) -> int:
        return self.purified.calls

    def __call__(self, x: Tensor, indices: Sequence[int], seed: int, draw: Sequence[int]) -> Tensor:
        z = 2 * x - 1
        with torch.no_grad():
            change = self.purified.purify(z, indices, seed, draw=draw) - z
        return self.purified.logits(z + change)
