"""The forward chain of T large steps and its posterior (Xiao et al. 2022, 2112.07804).

Levels i = 0 .. T lie at t_i = t_min + (1 - t_min) i/T. The networks see the index k = i - 1 of the level that a
step arrives at: k = T-1 takes noise down to level T-1, and k = 0 ends on the data.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gentool.families.ddgan.config import ScheduleConfig, VpSchedule


class Chain:
    """q(x_{k+1} | x_k) = N(sqrt(1 - beta_k) x_k, beta_k I), abar_0 = 1; all tables in float64, index k = 0 .. T-1.

    Attributes:
        steps: T.
        beta: of the step from level k to k + 1.
        abar, abar_next: at level k (1 for k = 0), and at k + 1.
        from_x0, from_next, variance: c1, c2 and v of q(x_k | x_{k+1}, x0) = N(c1 x0 + c2 x_{k+1}, v I).
    """

    def __init__(self, config: ScheduleConfig, steps: int) -> None:
        self.steps = steps
        t = config.t_min + (1 - config.t_min) * torch.arange(steps + 1, dtype=torch.float64) / steps
        log_abar = log_alpha_bar(config, t)
        log_abar = log_abar - log_abar[0]
        self.beta = -torch.expm1(log_abar.diff())
        self.abar, self.abar_next = log_abar[:-1].exp(), log_abar[1:].exp()
        noise, noise_next = -torch.expm1(log_abar[:-1]), -torch.expm1(log_abar[1:])
        self.from_x0 = self.beta * self.abar.sqrt() / noise_next
        self.from_next = noise * (1 - self.beta).sqrt() / noise_next
        self.variance = self.beta * noise / noise_next

    def pair(self, x0: Tensor, k: Tensor, noise: Tensor, noise_next: Tensor) -> tuple[Tensor, Tensor]:
        """x_k and x_{k+1} of data x0 (B, ...) in the order of the chain: x_{k+1} is x_k a step noisier.

        Args:
            k: (B,) int64.
            noise, noise_next: (B, ...) standard normal.
        """
        x = at(self.abar.sqrt(), k, x0) * x0 + at((1 - self.abar).sqrt(), k, x0) * noise
        return x, at((1 - self.beta).sqrt(), k, x0) * x + at(self.beta.sqrt(), k, x0) * noise_next

    def posterior(self, x0: Tensor, x_next: Tensor, k: Tensor, noise: Tensor) -> Tensor:
        """x_k ~ q(x_k | x_{k+1}, x0) with the given standard normal noise; for k = 0 it is x0, which has none."""
        mean = at(self.from_x0, k, x0) * x0 + at(self.from_next, k, x0) * x_next
        return mean + at(self.variance.sqrt(), k, x0) * noise


def log_alpha_bar(config: ScheduleConfig, t: Tensor) -> Tensor:
    """ln abar(t), abar the share of the data's variance that is left at time t."""
    if isinstance(config, VpSchedule):
        return -(config.beta_max - config.beta_min) / 2 * t**2 - config.beta_min * t
    return torch.log1p(-config.var_min * torch.exp(t * math.log(config.var_max / config.var_min)))


def at(table: Tensor, k: Tensor, like: Tensor) -> Tensor:
    """The table's entries (B, 1, ..., 1) at k (B,), in the type and on the device of `like` (B, ...)."""
    return table.to(like.device, like.dtype)[k].view(-1, *[1] * (like.ndim - 1))
