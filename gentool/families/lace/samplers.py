"""Latents of a frozen generator led by a log density (LACE, Nie, Vahdat and Anandkumar 2021, arXiv 2110.10873).

Each takes latents z (B, d), noise by counter, and `log_prob`, z -> (B,), each of its own latent; each latent goes its
own way, whatever its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gentool.diffusion.solvers.adaptive import Rk45
from gentool.errors import UserError
from gentool.noise import Noise

LogProb = Callable[[Tensor], Tensor]
Name = Literal["ode", "langevin", "pc", "rejection", "rejection-ode"]
NAMES: tuple[Name, ...] = ("ode", "langevin", "pc", "rejection", "rejection-ode")
BETA = (0.1, 20.0)
"""Ends of the variance-preserving diffusion's linear schedule on [0, 1]."""
SMALLEST = 1e-6
"""A latent whose steps in t would be shorter has failed."""
TRIES = 10_000


@dataclass(frozen=True)
class Settings:
    """How to sample; the defaults are the published ones.

    Attributes:
        rtol, atol, t_end: of the ODE.
        rate, steps, temperature: of Langevin's steps; temperature 1 samples exactly as rate goes to 0, the published
            code's noise is that of 0.005, near the mode.
        pc_steps, corrections, snr: of the predictor-corrector; stale_score: corrections take the predictor's score.

    Raises:
        UserError: a value out of its range.
    """

    rtol: float = 1e-3
    atol: float = 1e-3
    t_end: float = 1e-3
    rate: float = 1e-2
    steps: int = 100
    temperature: float = 5e-3
    pc_steps: int = 1000
    corrections: int = 2
    snr: float = 0.16
    stale_score: bool = False

    def __post_init__(self) -> None:
        for name in ("rtol", "atol", "rate", "steps", "pc_steps", "snr"):
            if not getattr(self, name) > 0:
                raise UserError(f"must be above 0, not {getattr(self, name):g}", name)
        if not 0 <= self.t_end < 1:
            raise UserError(f"must be in [0, 1), not {self.t_end:g}", "t_end")
        if self.temperature < 0 or self.corrections < 0:
            raise UserError(
                f"must not be below 0: {self.temperature:g}, {self.corrections}", "temperature, corrections"
            )


@dataclass(frozen=True)
class Found:
    """z (B, d) where they ended, `failed` (B,) bool (their z is NaN), and gradients taken a latent."""

    z: Tensor
    failed: Tensor
    nfe: float


class Gradient:
    """d log_prob / dz (B, d), counted; a latent whose gradient is not finite has failed, and goes nowhere more."""

    def __init__(self, log_prob: LogProb, count: int, device: torch.device) -> None:
        self.log_prob, self.nfe = log_prob, 0
        self.failed = torch.zeros(count, dtype=torch.bool, device=device)

    def __call__(self, z: Tensor) -> Tensor:
        fed = z.detach().requires_grad_()
        with torch.enable_grad():
            value = self.log_prob(fed)
            found = torch.autograd.grad(value.sum(), fed)[0] if value.requires_grad else torch.zeros_like(fed)
        self.nfe += 1
        self.failed |= ~(value.detach().isfinite() & found.isfinite().all(1))
        return torch.where(self.failed[:, None], 0, found)


def beta(t: Tensor) -> Tensor:
    """beta(t) of the schedule."""
    return BETA[0] + t * (BETA[1] - BETA[0])


def length(t_end: float) -> float:
    """tau = integral of beta/2 from t_end to 1: how far the ODE climbs log p."""
    return (BETA[0] * (1 - t_end) + (BETA[1] - BETA[0]) * (1 - t_end**2) / 2) / 2


def ode(log_prob: LogProb, z: Tensor, noise: Noise, how: Settings) -> Found:
    """dz/dt = -beta(t)/2 grad log p(c | z) from t = 1 to t_end (equation 7), by adaptive steps, each latent its own.

    The prior's score cancels against the drift, since N(0, I) is stationary. In tau it is plain gradient ascent: its
    end is no sample of the posterior, but near a mode of the likelihood.
    """
    gradient = Gradient(log_prob, len(z), z.device)

    def slope(z: Tensor, t: Tensor) -> Tensor:
        return -beta(t).to(z)[:, None] / 2 * gradient(z)

    end = Rk45(atol=how.atol, rtol=how.rtol).solve(z, 1.0, how.t_end, slope, smallest=SMALLEST)
    return _found(end, gradient)


def langevin(log_prob: LogProb, z: Tensor, noise: Noise, how: Settings) -> Found:
    """z <- z + rate grad[log p(c|z) - |z|^2/2] + sqrt(2 rate temperature) noise (section 3.3)."""
    gradient = Gradient(log_prob, len(z), z.device)
    std = math.sqrt(2 * how.rate * how.temperature)
    for i in range(how.steps):
        z = z + how.rate * (gradient(z) - z) + std * noise.normal("langevin", i).to(z)
    return _found(z, gradient)


def predictor_corrector(log_prob: LogProb, z: Tensor, noise: Noise, how: Settings) -> Found:
    """The reverse VP-SDE's steps, each followed by Langevin steps of a set signal-to-noise ratio (appendix A).

    The score is asked for anew at every correction, but with `stale_score` (the published code's), and its norm is each
    latent's own.
    """
    gradient = Gradient(log_prob, len(z), z.device)
    n = how.pc_steps
    for i in reversed(range(n)):
        b = (BETA[0] + (BETA[1] - BETA[0]) * i / max(n - 1, 1)) / n
        score = gradient(z) - z
        z = (2 - math.sqrt(1 - b)) * z + b * score + math.sqrt(b) * noise.normal("predict", i).to(z)
        for j in range(how.corrections):
            score = score if how.stale_score else gradient(z) - z
            fresh = noise.normal("correct", i * how.corrections + j).to(z)
            size = fresh.norm(dim=1, keepdim=True) / score.norm(dim=1, keepdim=True).clamp(min=1e-12)
            step = 2 * (1 - b) * (how.snr * size) ** 2
            z = z + step * score + (2 * step).sqrt() * fresh
    return _found(z, gradient)


def rejection(log_prob: Callable[[Tensor, Tensor], Tensor], z: Tensor, noise: Noise, bound: float) -> Found:
    """The exact posterior: prior draws, the first z among them, each kept with probability exp(log_prob - bound).

    Args:
        log_prob: (proposals (R, d), (R,) which of the latents each is for) -> (R,).
        bound: at least as high as log_prob anywhere.
    """
    done = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    asked, kept = 0, torch.full_like(z, torch.nan)
    for i in range(TRIES):
        rows = (~done).nonzero().squeeze(1)
        if len(rows) == 0:
            break
        ours = Noise(noise.seed, [noise.indices[row] for row in rows.tolist()], noise.shape)
        proposed = z[rows] if i == 0 else ours.normal("rejection", i).to(z)
        with torch.no_grad():
            chance = (log_prob(proposed, rows) - bound).exp()
        asked += len(rows)
        taken = ours.uniform("accept", i).to(z.device) < chance
        kept[rows[taken]] = proposed[taken]
        done[rows[taken]] = True
    return Found(kept, ~done, asked / len(z))


def _found(z: Tensor, gradient: Gradient) -> Found:
    failed = gradient.failed | ~z.isfinite().all(1)
    return Found(torch.where(failed[:, None], torch.nan, z.detach()), failed, float(gradient.nfe))


SAMPLERS: dict[str, Callable[[LogProb, Tensor, Noise, Settings], Found]] = {
    "ode": ode,
    "langevin": langevin,
    "pc": predictor_corrector,
}
"""Those that follow the gradient alone; `rejection` needs a bound."""
