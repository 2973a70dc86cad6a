"""Noise by counter: a sample's noise depends on (seed, sample index, stream, step) and on nothing else.

So sample i of a seed is the same whatever the batch size, the device count or the rank, and a stored gradient can
replay its noise. Draws are made on the CPU, per sample, and moved: the bits agree between devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from hashlib import blake2b

import torch
from torch import Tensor

_SEPARATOR = "\x1f"


def mix(*parts: int | str) -> int:
    """A 63-bit key of the parts; equal parts give equal keys on every machine."""
    return _key(_SEPARATOR.join(map(str, parts)).encode())


def _key(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") >> 1


class Noise:
    """Standard normal noise for a batch of samples.

    Args:
        seed: the run's seed.
        indices: the global index of each sample of the batch, length B.
        shape: the shape of one sample's noise.
        device, dtype: where the draws go; they are always made in float32 on the CPU, so that a float64
            state and a float32 state see the same noise.
    """

    def __init__(
        self,
        seed: int,
        indices: Sequence[int],
        shape: Sequence[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.seed = seed
        self.indices = [int(i) for i in indices]
        self.shape = tuple(shape)
        self.device = torch.device(device)
        self.dtype = dtype
        self._starts = [f"{seed}{_SEPARATOR}{i}".encode() for i in self.indices]
        self._nodes: dict[tuple[str, int, int], Tensor] = {}

    def _draw(self, stream: str, step: int) -> Tensor:
        # `mix(seed, index, stream, step)`, put together here: for small samples the keys cost as much as the noise.
        end = f"{_SEPARATOR}{stream}{_SEPARATOR}{step}".encode()
        out = torch.empty(len(self.indices), *self.shape)
        generator = torch.Generator()
        for row, start in zip(out.unbind(0), self._starts):
            row.normal_(generator=generator.manual_seed(_key(start + end)))
        return out

    def normal(self, stream: str, step: int = 0) -> Tensor:
        """(B, *shape) independent N(0, 1) for this stream (`"prior"`, `"churn"`, ...) and step."""
        return self._draw(stream, step).to(self.device, self.dtype)

    def uniform(self, stream: str, step: int = 0) -> Tensor:
        """(B,) independent U[0, 1) in float64 on the CPU.

        A stream is either normal or uniform: both kinds of one name and step start the same generator, so that
        they depend on each other. (The kind cannot join the key any more: it would change what seeds draw.)
        """
        generator = torch.Generator()
        return torch.stack(
            [
                torch.rand(
                    (), generator=generator.manual_seed(mix(self.seed, i, stream, step)), dtype=torch.float64
                )
                for i in self.indices
            ]
        )

    def increment(self, stream: str, a: float, b: float, depth: int = 12) -> Tensor:
        """(W(b) - W(a)) / sqrt(b - a) of one Brownian path per sample on [0, 1]: N(0, 1), (B, *shape).

        Disjoint intervals are independent, and the path does not depend on the intervals asked for: a run with
        twice the steps sees the same path, finer. Ends are rounded to multiples of 2**-depth; one costs a draw a
        binary digit, trailing zeros apart, which its neighbours share.

        Raises:
            ValueError: unless 0 <= a < b <= 1 after rounding.
        """
        cells = 1 << depth
        i, j = round(a * cells), round(b * cells)
        if not 0 <= i < j <= cells:
            raise ValueError(f"no Brownian increment over [{a}, {b}] at a resolution of 2**-{depth}")
        path, scale = self._path(stream, j, depth), math.sqrt((j - i) / cells)
        step = (path - self._path(stream, i, depth)).div_(scale) if i else path / scale
        return step.to(self.device, self.dtype)

    def _path(self, stream: str, k: int, depth: int) -> Tensor:
        """W(k 2**-depth) for k > 0, by midpoint (Levy) refinement from W(0) = 0 and W(1)."""
        cells = 1 << depth
        if k == cells:
            return self._node(stream, 0, 0, lambda z: z)
        low = k & -k  # the span of the dyadic interval whose midpoint k is, halved
        level, place = depth - low.bit_length() + 1, k // (2 * low)

        def between(z: Tensor) -> Tensor:
            z.mul_(math.sqrt(low / cells / 2)).add_(self._path(stream, k + low, depth), alpha=0.5)
            return z.add_(self._path(stream, k - low, depth), alpha=0.5) if k > low else z

        return self._node(stream, level, place, between)

    def _node(self, stream: str, level: int, place: int, build: Callable[[Tensor], Tensor]) -> Tensor:
        key = (stream, level, place)
        if key not in self._nodes:
            if len(self._nodes) > 64:  # bounded memory; an evicted node is drawn again, the same
                self._nodes.pop(next(iter(self._nodes)))
            self._nodes[key] = build(self._draw(f"{stream}/{level}", place))
        return self._nodes[key]
