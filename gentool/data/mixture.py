"""Isotropic Gaussian mixtures to draw data from; their density and exact denoiser are `diffusion.mixture`'s."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mixture:
    """p(x) = sum_k w_k N(x; m_k, s_k^2 I).

    Attributes:
        means: (K, D) float64.
        stds: (K,) float64, positive.
        weights: (K,) float64, summing to 1.
    """

    means: np.ndarray
    stds: np.ndarray
    weights: np.ndarray

    def sample(self, count: int, key: int) -> tuple[np.ndarray, np.ndarray]:
        """-> (count, D) float32 and the component of each, (count,) int64; the same for the same key."""
        random = np.random.Generator(np.random.Philox(key=key))
        labels = np.searchsorted(np.cumsum(self.weights)[:-1], random.random(count), side="right")
        noise = random.standard_normal((count, self.means.shape[1]))
        return (self.means[labels] + self.stds[labels, None] * noise).astype(np.float32), labels.astype(
            np.int64
        )
