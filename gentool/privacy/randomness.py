"""Batches and noise that nobody can recompute: keyed by a secret of the process that is written nowhere.

A public seed would let its holder subtract the noise; 32 bits of state, as torch's generator takes on a CPU, could be
searched. So each life of a run draws a secret from the operating system, and each use of it (which records join
step s, the noise of step s) has a 128-bit key of its own. A resumed run draws a new secret: nothing needs saving.
"""

from __future__ import annotations

import math
import os
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor


class Secrets:
    """Keys for the randomness that privacy rests on.

    Args:
        debug_seed: makes every draw reproducible, which protects nobody; None takes fresh bits of the system.
    """

    def __init__(self, debug_seed: int | None = None) -> None:
        self.reproducible = debug_seed is not None
        self._root = os.urandom(32) if debug_seed is None else b"debug %d" % debug_seed

    def key(self, purpose: str, step: int, rank: int = 0) -> int:
        """128 bits, different for each use."""
        text = f"{purpose}\x1f{step}\x1f{rank}"
        return int.from_bytes(blake2b(text.encode(), key=self._root, digest_size=16).digest(), "little")

    def generator(self, purpose: str, step: int, rank: int = 0) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=self.key(purpose, step, rank)))

    def bits(self, count: int, purpose: str, step: int, rank: int = 0) -> np.ndarray:
        """(count,) uint64: the system's own cryptographic generator, or the debug seed's."""
        if self.reproducible:
            return self.generator(purpose, step, rank).integers(0, 2**64, count, dtype=np.uint64)
        return np.frombuffer(os.urandom(8 * count), dtype=np.uint64)


def gaussian(
    secrets: Secrets, step: int, size: int, device: torch.device, *, secure: bool = False, rank: int = 0
) -> Tensor:
    """(size,) float32 standard normals, the noise of one step.

    Secure: four float64 normals from cryptographic bits are added and halved, so that the rounding of one
    draw does not give it away (Mironov 2012; Holohan and Braghin 2021). It is a mitigation, not a proof.
    """
    if secure:
        total = sum(_box_muller(secrets, f"noise {part}", step, size, rank) for part in range(4))
        return torch.from_numpy(total / 2).to(device, torch.float32)
    if device.type == "cpu":
        draws = secrets.generator("noise", step, rank).standard_normal(size, dtype=np.float32)
        return torch.from_numpy(draws)
    generator = torch.Generator(device)
    generator.manual_seed(secrets.key("noise", step, rank) >> 65)  # torch takes 63 bits
    return torch.randn(size, generator=generator, device=device)


def _box_muller(secrets: Secrets, purpose: str, step: int, size: int, rank: int) -> np.ndarray:
    """(size,) float64 standard normals from pairs of 53-bit uniforms (Box and Muller 1958)."""
    half = (size + 1) // 2
    uniform = (secrets.bits(2 * half, purpose, step, rank) >> np.uint64(11)).astype(np.float64)
    radius = np.sqrt(-2 * np.log((uniform[:half] + 1) * 2.0**-53))  # in (0, 1]: the logarithm is finite
    angle = 2 * math.pi * 2.0**-53 * uniform[half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]
