"""From a network that estimates the velocity's noise to x0.

Source: CLD-SGM (2112.07068), section 3.2: s(u, t) = -ell(t) N(u, t), mixed with the score of normal data. Given x0, the
state is Phi (x0, 0) + L e with e = (e_x, e_w), L lower triangular, and the score of w is -e_w / L_ww. With
r = Sigma_xw / Sigma_xx and k = Phi_wx - Phi_xx r, an estimate a of e_w is the estimate
x0 = (w - r x - L_ww a) / k of the data, so the network fits the interface of every other denoiser.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gentool.diffusion.langevin.config import LangevinConfig
from gentool.diffusion.langevin.process import Langevin
from gentool.diffusion.precond import Precond, Scalings


class VelocityPrecond(Precond):
    """D = c_skip . (x, w) + c_out N(x, v; c_noise), with v = sqrt(M) w the velocity in its own units.

    Args:
        mixed: N adds to the answer for data of variance gamma's own, e_w = w L_ww / Var[w | x0 = 0] (exact at t = 1).
        velocity_known: N estimates the noise of w given its initial value (denoising score matching); its variance
            is smaller, so the score is more of it.
        time: the network is told ln t (`log`) or t (`linear`).
    """

    name = "velocity"

    def __init__(
        self, process: Langevin, *, mixed: bool = True, velocity_known: bool = False, time: str = "log"
    ) -> None:
        super().__init__()
        self.process, self.mixed, self.velocity_known, self.time = process, mixed, velocity_known, time

    def forward(self, sigma: Tensor) -> Scalings:
        """sigma (B,) -> c_skip, c_in (B, 2) over (x, w), c_out and c_noise (B,), in sigma's dtype."""
        t = self.process.t_of_sigma(sigma.double())
        score, found = self.process.score(t), self.process.transition(t)
        # grad_w log p = -N / L - [w / Sigma_ww], L of the noise that N was trained on; x0 is where score gives that
        known = self.process.transition(t, velocity_known=self.velocity_known)
        base = self.mixed / found.ww
        c_skip = torch.stack([-score.on_x / score.on_x0, -(score.on_w + base) / score.on_x0], 1)
        c_out = -(known.xx / known.det).sqrt() / score.on_x0
        c_in = torch.tensor([1.0, self.process.mass**0.5], dtype=t.dtype, device=t.device).expand(len(t), 2)
        c_noise = t.log() if self.time == "log" else t
        return Scalings(*(c.to(sigma.dtype) for c in (c_skip, c_out, c_in, c_noise)))


def build(config: LangevinConfig, process: Langevin) -> VelocityPrecond:
    """The preconditioning of a recipe's `model:` block."""
    return VelocityPrecond(
        process,
        mixed=config.precond.mixed,
        velocity_known=config.loss.objective == "dsm",
        time=config.precond.time,
    )
