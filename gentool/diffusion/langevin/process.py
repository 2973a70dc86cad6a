"""Critically-damped Langevin diffusion: data x and a velocity, noise entering the velocity alone.

Source: Dockhorn, Vahdat and Kreis 2022 (2112.07068), section 3 and appendix B.

The velocity is held in units of its equilibrium, w = v / sqrt(M), and time in s = sqrt(1/M) int beta dt. There the
process has no parameter left but the variance `gamma` of w at the start:

    dx = w ds,  dw = -x ds - 2 w ds + 2 dW,  equilibrium N(0, I),
    mean of (x, w) = Phi(s) (x0, w0),  Phi(s) = e^-s [[1 + s, s], [-s, 1 - s]],
    covariance = I - Phi (I - diag(0, gamma)) Phi^T.

A state is one tensor (B, 2, ...): x in row 0, w in row 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gentool.diffusion.langevin.config import LangevinProcess
from gentool.diffusion.process import Process


def tail(y: Tensor) -> Tensor:
    """e^y - 1 - y - y^2/2 for y >= 0, to full relative precision: its series below 1, where terms would cancel."""
    powers = torch.arange(3, 20, dtype=y.dtype, device=y.device)
    series = y.clamp(max=1.0).unsqueeze(-1) ** powers @ torch.lgamma(powers + 1).neg().exp()
    return torch.where(y < 1, series, torch.expm1(y) - y - y**2 / 2)


class Covariance(NamedTuple):
    """A symmetric 2x2 matrix over (x, w), with its determinant computed apart; each of one shape."""

    xx: Tensor
    xw: Tensor
    ww: Tensor
    det: Tensor

    def padded(self, on_x: float, on_w: float) -> Covariance:
        """With more variance on the diagonal."""
        det = self.det + on_x * self.ww + on_w * self.xx + on_x * on_w
        return Covariance(self.xx + on_x, self.xw, self.ww + on_w, det)

    def cholesky(self) -> tuple[Tensor, Tensor, Tensor]:
        """(L_xx, L_wx, L_ww) of the lower triangular factor."""
        root = self.xx.sqrt()
        return root, self.xw / root, (self.det / self.xx).sqrt()


def covariance(s: Tensor, start: float) -> Covariance:
    """Covariance after time s of (x, w) started from variances (0, start).

    Sums of terms of one sign but for 4 s h - 4 s^4 in the determinant, which cancels a quarter at most: relative
    error 1e-15 however small s, where subtracting from 1 would leave nothing.
    """
    h, decay = tail(2 * s), torch.exp(-2 * s)
    rest = h * ((1 - s) ** 2 + s**2) + 4 * s**4
    return Covariance(
        decay * (h + start * s**2),
        decay * s * (2 * s + start * (1 - s)),
        decay * (h + 4 * s + start * (1 - s) ** 2),
        decay**2 * (h**2 + 4 * s * h - 4 * s**4 + start * rest),
    )


class Score(NamedTuple):
    """The score of w as a function of state and x0 prediction: grad_w log p = on_x x + on_w w + on_x0 D."""

    on_x: Tensor
    on_w: Tensor
    on_x0: Tensor


class Langevin(Process):
    """The process in the variables of this file; `t` is the paper's, in (0, 1].

    `alpha` and `sigma` are those of the marginal of x given x0, without `numerical_eps`: a noise level for grids and
    predictors like any other process's, and as good a clock as t.

    Attributes:
        gamma: variance of w at the start.
        numerical_eps: variance added to x and v at every time.
    """

    name = "cld"
    state_parts = 2

    def __init__(self, config: LangevinProcess | None = None) -> None:
        config = config or LangevinProcess()
        self.config = config
        self.mass = 1 / config.m_inv
        self.gamma, self.numerical_eps = config.gamma, config.numerical_eps
        self.t_min, self.t_max = config.t_min, 1.0
        self._tables: dict[torch.device, Tensor] = {}

    @property
    def train_t_min(self) -> float:
        return self.config.train_t_min

    # time

    def s(self, t: Tensor) -> Tensor:
        """s(t) = sqrt(1/M) (beta0 t + beta1 t^2 / 2)."""
        return (self.config.beta0 * t + self.config.beta1 * t**2 / 2) * self.config.m_inv**0.5

    def rate(self, t: Tensor) -> Tensor:
        """ds/dt."""
        return (self.config.beta0 + self.config.beta1 * t) * self.config.m_inv**0.5

    def t_of_s(self, s: Tensor) -> Tensor:
        """Inverse of `s`."""
        b0, b1, whole = self.config.beta0, self.config.beta1, s * self.mass**0.5
        return 2 * whole / (b0 + (b0**2 + 2 * b1 * whole).sqrt()).clamp(min=1e-300)

    # the transition

    def mean(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Phi(s(t)), row by row: x's share of x0 and of w0, w's share of x0 and of w0."""
        s = self.s(t)
        decay = torch.exp(-s)
        return decay * (1 + s), decay * s, -decay * s, decay * (1 - s)

    def transition(self, t: Tensor, *, velocity_known: bool = False) -> Covariance:
        """Covariance of the state given x0, `numerical_eps` included; given the initial velocity too, where that is
        known."""
        found = covariance(self.s(t), 0.0 if velocity_known else self.gamma)
        return found.padded(self.numerical_eps, self.numerical_eps / self.mass)

    def score(self, t: Tensor) -> Score:
        """What E[x0 | state] says of the score of w, and the other way round.

        The score given x0, -(Sigma^-1 (u - Phi (x0, 0)))_w, is linear in x0, so its mean given u is its value at the
        mean of x0.
        """
        keep, _, turn, _ = self.mean(t)
        sigma = self.transition(t)
        slope, spread = sigma.xw / sigma.xx, sigma.det / sigma.xx
        return Score(slope / spread, -1 / spread, (turn - keep * slope) / spread)

    @property
    def mismatch(self) -> float:
        """The largest entry of |Phi| at t = 1: how much of the start is left where sampling starts from the prior."""
        return max(abs(float(entry)) for entry in self.mean(torch.tensor(self.t_max, dtype=torch.float64)))

    # the marginal of x

    def alpha(self, t: Tensor) -> Tensor:
        return self.mean(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        return covariance(self.s(t), self.gamma).xx.sqrt() / self.alpha(t)

    def dlog_alpha(self, t: Tensor) -> Tensor:
        s = self.s(t)
        return -s / (1 + s) * self.rate(t)

    def dsigma(self, t: Tensor) -> Tensor:
        found = covariance(self.s(t), self.gamma)
        return self.sigma(t) * (found.xw / found.xx * self.rate(t) - self.dlog_alpha(t))

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        """For sigma > 0, by two steps of Newton in (ln s, ln sigma) from a table: to rounding, in float64."""
        target = sigma.double().log()
        table = self._table(sigma.device)
        low, high, values = table[0], table[1], table[2:]
        place = ((target - low) / (high - low)).clamp(0, 1) * (len(values) - 1)
        index = place.long().clamp(max=len(values) - 2)
        y = torch.lerp(values[index], values[index + 1], place - index)
        for _ in range(2):
            s = y.exp()
            found, keep = covariance(s, self.gamma), torch.exp(-s) * (1 + s)
            slope = s * (found.xw / found.xx + s / (1 + s))
            y = y - (found.xx.sqrt().log() - keep.log() - target) / slope
        return self.t_of_s(y.exp())

    def _table(self, device: torch.device) -> Tensor:
        """(4098,) float64: the first and last ln sigma, and ln s at 4096 levels evenly spaced between them."""
        if device not in self._tables:
            top = float(self.s(torch.tensor(self.t_max, dtype=torch.float64)))
            logs = torch.linspace(math.log(1e-9), math.log(1.01 * top), 1 << 14, dtype=torch.float64)
            s = logs.exp()
            levels = (covariance(s, self.gamma).xx.sqrt() / (torch.exp(-s) * (1 + s))).log()
            asked = torch.linspace(float(levels[0]), float(levels[-1]), 1 << 12, dtype=torch.float64)
            right = torch.searchsorted(levels, asked).clamp(1, len(levels) - 1)
            share = (asked - levels[right - 1]) / (levels[right] - levels[right - 1])
            values = torch.lerp(logs[right - 1], logs[right], share)
            self._tables[device] = torch.cat([levels[[0, -1]], values]).to(device)
        return self._tables[device]

    def prior_scale(self, sigma: float) -> float:
        """1: the equilibrium, data and velocity alike."""
        return 1.0
