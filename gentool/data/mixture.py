"""Isotropic Gaussian mixtures: the data for which everything about diffusion is known in closed form."""

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

    def log_density(self, x: np.ndarray, sigma: float = 0.0) -> np.ndarray:
        """ln p(x; sigma) of x = x0 + sigma eps: (N, D) -> (N,), in nats; by log-sum-exp."""
        logs = self._logs(x, sigma)
        top = logs.max(1)
        return np.asarray(top + np.log(np.exp(logs - top[:, None]).sum(1)))

    def denoise(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """D(x; sigma) = E[x0 | x0 + sigma eps = x]: (N, D) -> (N, D).

        Each component is shrunk to its mean, (s^2 x + sigma^2 m)/(s^2 + sigma^2), and weighted by its
        posterior.
        """
        logs = self._logs(x, sigma)
        posterior = np.exp(logs - logs.max(1, keepdims=True))
        posterior /= posterior.sum(1, keepdims=True)
        var = self.stds**2
        kept = (var / (var + sigma**2))[:, None]
        shrunk = kept * np.asarray(x, np.float64)[:, None] + (1 - kept) * self.means
        return np.asarray((posterior[..., None] * shrunk).sum(1))

    def _logs(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """(N, K): ln w_k + ln N(x; m_k, (s_k^2 + sigma^2) I)."""
        var = self.stds**2 + sigma**2
        squares = ((np.asarray(x, np.float64)[:, None] - self.means) ** 2).sum(-1)
        return np.log(self.weights) - squares / (2 * var) - self.means.shape[1] / 2 * np.log(2 * np.pi * var)
