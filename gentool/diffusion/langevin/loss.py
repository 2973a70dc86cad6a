"""Hybrid and denoising score matching of the velocity.

Source: CLD-SGM (2112.07068), section 3.1 and appendix C: E_t lambda(t) |a(u_t, t) - e_w|^2, with a the estimate of
the velocity's noise. Hybrid: u_t is drawn given x0 alone, the initial velocity integrated out; denoising: it is drawn.
The error is the mean over values, as in `diffusion.loss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gentool.diffusion.convert import per_sample
from gentool.diffusion.langevin.config import LangevinConfig
from gentool.diffusion.langevin.process import Langevin
from gentool.diffusion.loss import DenoiseFunction, Draws, repeat
from gentool.diffusion.times import uniforms


@dataclass(frozen=True)
class LangevinLoss:
    """Per-sample losses; called as `diffusion.loss.DiffusionLoss` is, with the same promises."""

    process: Langevin
    objective: Literal["hsm", "dsm"] = "hsm"
    weight: Literal["unit", "beta", "likelihood"] = "unit"
    stratified: bool = False

    def draw(
        self,
        count: int,
        shape: Sequence[int],
        generator: torch.Generator,
        *,
        draws: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> Draws:
        """u (B, K) and noise (B, K, 2, ...) of x and w; (B, K, 3, ...) with w's initial value for `dsm`."""
        u = uniforms(count, draws, generator, stratified=self.stratified, rank=rank, world=world)
        parts = 3 if self.objective == "dsm" else 2
        noise = torch.randn(count, draws, parts, *shape, generator=generator, device=generator.device)
        return Draws(u, noise)

    def __call__(
        self,
        denoiser: DenoiseFunction,
        x0: Tensor,
        label: Tensor | None,
        augment: Tensor | None,
        u: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """Losses (B,) of x0 (B, ...) at the draws u (B, K), noise (B, K, 2 or 3, ...), in x0's dtype.

        All but the network is computed in float64: near t = 0 the noise of w moves x0 by a thousandth of itself.
        """
        batch, draws = u.shape
        flat = repeat(x0, draws).double()
        label = None if label is None else repeat(label, draws)
        augment = None if augment is None else repeat(augment, draws)
        start = self.process.train_t_min
        t = start + u.flatten().double() * (self.process.t_max - start)
        state, error_of = self._perturb(flat, t, noise.flatten(0, 1).double())
        error = error_of(denoiser(state, self.process.sigma(t), label, augment).double())
        losses = self._weights(t) * error.square().flatten(1).mean(1)
        return losses.view(batch, draws).mean(1).to(x0.dtype)

    def _perturb(self, x0: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, _Error]:
        hidden = self.objective == "hsm"
        known = self.process.transition(t, velocity_known=not hidden)
        l_xx, l_wx, l_ww = (per_sample(c, x0) for c in known.cholesky())
        keep, fed, turn, last = (per_sample(c, x0) for c in self.process.mean(t))
        e_x, e_w = noise[:, 0], noise[:, 1]
        x, w = keep * x0 + l_xx * e_x, turn * x0 + l_wx * e_x + l_ww * e_w
        if not hidden:
            w0 = self.process.gamma**0.5 * noise[:, 2]
            x, w = x + fed * w0, w + last * w0
        return torch.stack([x, w], 1), _Error(self.process, t, x, w, l_ww, e_w)

    def _weights(self, t: Tensor) -> Tensor:
        if self.weight == "unit":
            return torch.ones_like(t)
        damping = 2 * self.process.mass**0.5
        weight = damping * self.process.rate(t) * self.process.mass**0.5  # Gamma beta
        if self.weight == "likelihood":
            known = self.process.transition(t, velocity_known=self.objective == "dsm")
            weight = weight * known.xx / (known.det * self.process.mass)  # ell_v^2
        return weight


@dataclass(frozen=True)
class _Error:
    """From an x0 prediction to a - e_w, with a = -L_ww grad_w log p the noise that the prediction implies."""

    process: Langevin
    t: Tensor
    x: Tensor
    w: Tensor
    l_ww: Tensor
    e_w: Tensor

    def __call__(self, x0: Tensor) -> Tensor:
        on_x, on_w, on_x0 = (per_sample(c, x0) for c in self.process.score(self.t))
        return -self.l_ww * (on_x * self.x + on_w * self.w + on_x0 * x0) - self.e_w


def build(config: LangevinConfig, process: Langevin) -> LangevinLoss:
    """The loss of a recipe's `model:` block."""
    return LangevinLoss(process, config.loss.objective, config.loss.weight, config.loss.stratified)
