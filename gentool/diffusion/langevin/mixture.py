"""Gaussian mixtures carried by Langevin diffusion, whose score is known in closed form: the oracle of tests and
benchmarks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gentool.diffusion.convert import per_sample
from gentool.diffusion.langevin.process import Covariance, Langevin, covariance
from gentool.diffusion.mixture import GaussianMixture


class LangevinMixture:
    """The marginals of (x, w) when x0 follows `data` and w0 is N(0, gamma), without `numerical_eps`.

    Given component k, (x, w) has mean Phi (mu_k, 0) and, value by value, the covariance that the process gives to a
    start of variances (s_k^2, gamma).
    """

    def __init__(self, data: GaussianMixture, process: Langevin) -> None:
        self.data, self.process = data, process

    def denoise(self, state: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """The x0 prediction (B, ...) that stands for the exact score of w: state (B, 2, ...), sigma (B,)."""
        t = self.process.t_of_sigma(sigma.double())
        score = self.score(state, t, label)
        on_x, on_w, on_x0 = (per_sample(c, score) for c in self.process.score(t))
        x, w = state.double().unbind(1)
        return ((score - on_x * x - on_w * w) / on_x0).to(state.dtype)

    def score(self, state: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """grad_w log p_t(x, w) (B, ...) at t (B,), float64; label (B,) keeps one component."""
        x, w = state.double().flatten(2).unbind(1)
        spread = self._spread(t)
        weights = self._log_joint(x, w, t, spread, label).softmax(1)
        # of component k: (Sigma_xw (x - Phi_xx mu) - Sigma_xx (w - Phi_wx mu)) / det
        keep, _, turn, _ = (c.unsqueeze(1) for c in self.process.mean(t))
        on_x, on_w = spread.xw / spread.det * weights, -spread.xx / spread.det * weights
        out = on_x.sum(1, keepdim=True) * x + on_w.sum(1, keepdim=True) * w
        out = out - (on_x * keep + on_w * turn) @ self.data.means
        return out.view(state.shape[0], *state.shape[2:])

    def log_prob(self, state: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """log density (B,) of (x, w) at t (B,), in nats and float64."""
        x, w = state.double().flatten(2).unbind(1)
        return self._log_joint(x, w, t, self._spread(t), label).logsumexp(1)

    def _spread(self, t: Tensor) -> Covariance:
        """(B, K) covariances of the components: from rest, and Phi diag(s_k^2, 0) Phi^T more."""
        found = covariance(self.process.s(t), self.process.gamma)
        keep, _, turn, _ = (c.unsqueeze(1) for c in self.process.mean(t))
        xx, xw, ww, det = (c.unsqueeze(1) for c in found)
        v = self.data.variances.to(t.device)
        more = v * (keep**2 * ww + turn**2 * xx - 2 * keep * turn * xw)
        return Covariance(xx + v * keep**2, xw + v * keep * turn, ww + v * turn**2, det + more)

    def _log_joint(self, x: Tensor, w: Tensor, t: Tensor, spread: Covariance, label: Tensor | None) -> Tensor:
        """log weight_k N((x, w); ...) as (B, K)."""
        keep, _, turn, _ = (c.unsqueeze(1) for c in self.process.mean(t))
        means, sizes = self.data.means, self.data.means.square().sum(1)

        def square(y: Tensor, share: Tensor, z: Tensor, other: Tensor) -> Tensor:
            """(y - share mu_k) . (z - other mu_k), by its expansion: (B, K, D) may not fit."""
            return (
                (y * z).sum(1, keepdim=True)
                - other * (y @ means.T)
                - share * (z @ means.T)
                + share * other * sizes
            )

        quadratic = (
            spread.ww * square(x, keep, x, keep)
            - 2 * spread.xw * square(x, keep, w, turn)
            + spread.xx * square(w, turn, w, turn)
        ) / spread.det
        normal = means.shape[1] * (math.log(2 * math.pi) + 0.5 * spread.det.log())
        log = self.data.log_weights - 0.5 * quadratic - normal
        if label is None:
            return log
        k = torch.arange(len(means), device=label.device)
        own = (label.unsqueeze(1) == k) | (label.unsqueeze(1) == len(k))
        known = torch.where(label.unsqueeze(1) == k, self.data.log_weights, 0.0)
        return torch.where(own, log - known, -math.inf)
