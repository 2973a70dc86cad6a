"""Gaussian mixtures, for which everything a diffusion model learns is known in closed form.

The oracle of solver, guidance and likelihood tests and of the toy benchmarks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor


class GaussianMixture:
    """Sum of isotropic Gaussians sum_k w_k N(mu_k, s_k^2 I), diffused to any noise level.

    Everything is computed in float64 and is differentiable, vmap- and JVP-safe in x and sigma. Classes are
    the
    components: a label k conditions on component k, the label K (the null label) on nothing.

    Args:
        means: (K, *shape) float.
        stds: (K,) at least 0; 0 is a point mass (a data set itself).
        weights: (K,) positive, normalised here; None: equal.

    Attributes:
        shape: of one sample.
    """

    def __init__(
        self,
        means: Tensor | Sequence[Sequence[float]],
        stds: Tensor | Sequence[float],
        weights: Tensor | Sequence[float] | None = None,
    ) -> None:
        means = torch.as_tensor(means, dtype=torch.float64)
        self.shape = means.shape[1:]
        self.means = means.flatten(1)
        self.variances = torch.as_tensor(stds, dtype=torch.float64) ** 2
        w = (
            torch.ones(len(means), dtype=torch.float64)
            if weights is None
            else torch.as_tensor(weights, dtype=torch.float64)
        )
        self.log_weights = (w / w.sum()).log()

    @classmethod
    def triad(cls) -> Self:
        """The project's 2-D test mixture: three components of unequal width and weight."""
        return cls([[-1.0, 0.5], [0.8, 0.9], [0.3, -1.1]], [0.35, 0.25, 0.45], [0.3, 0.45, 0.25])

    def to(self, device: torch.device | str) -> Self:
        """This mixture, moved to a device."""
        self.means, self.variances, self.log_weights = (
            v.to(device) for v in (self.means, self.variances, self.log_weights)
        )
        return self

    def denoise(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """E[x0 | x0 + sigma eps = x]: x (B, *shape), sigma (B,) or 0-d, label (B,) or None -> (B, *shape)."""
        flat, total = x.double().flatten(1), self._total(sigma)
        posterior = self._log_joint(flat, total, label).softmax(1)
        # component k has mean mu_k + s_k^2/(s_k^2 + sigma^2) (x - mu_k)
        pull = self.variances / total
        x0 = (posterior * (1 - pull)) @ self.means + (posterior * pull).sum(1, keepdim=True) * flat
        return x0.view(x.shape).to(x.dtype)

    def log_prob(self, x: Tensor, sigma: Tensor | float = 0.0, label: Tensor | None = None) -> Tensor:
        """log density (B,) of x0 + sigma eps at x (B, *shape), in nats and float64."""
        return self._log_joint(x.double().flatten(1), self._total(sigma), label).logsumexp(1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, *shape) float64 draws of x0 from an explicit CPU generator."""
        k = torch.multinomial(self.log_weights.exp().cpu(), count, replacement=True, generator=generator)
        z = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        k, z = k.to(self.means.device), z.to(self.means.device)
        return (self.means[k] + self.variances[k].sqrt().unsqueeze(1) * z).view(count, *self.shape)

    def _total(self, sigma: Tensor | float) -> Tensor:
        """s_k^2 + sigma^2 as (B or 1, K)."""
        level = torch.as_tensor(sigma, device=self.means.device).double()
        return self.variances + level.reshape(-1, 1) ** 2

    def _log_joint(self, flat: Tensor, total: Tensor, label: Tensor | None) -> Tensor:
        """log w_k N(x; mu_k, total_k) as (B, K); of the label's component alone where there is one."""
        # |x - mu|^2 by its expansion: (B, K, d) would not fit for a data set's worth of components
        cross = flat @ self.means.T
        squares = flat.square().sum(1, keepdim=True) - 2 * cross + self.means.square().sum(1)
        dims = self.means.shape[1]
        log = self.log_weights - 0.5 * (squares / total + dims * (2 * math.pi * total).log())
        if label is None:
            return log
        k = torch.arange(len(self.means), device=flat.device)
        own = (label.unsqueeze(1) == k) | (label.unsqueeze(1) == len(k))
        # a condition's density is that of its component, without the weight
        known = torch.where(label.unsqueeze(1) == k, self.log_weights, 0.0)
        return torch.where(own, log - known, -math.inf)
