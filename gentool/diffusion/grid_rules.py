"""The rules by which named grids place their levels.

Sources: EDM eq. 5 (karras), DPM-Solver 4.1 (log-snr), DDIM and DEIS (power-t), k-diffusion (poly-exp), EDM
table 1 (edm-vp), CLD-SGM (quadratic-t), DDIM's and "Common diffusion noise schedules" (2305.08891) spacings of a
discrete model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gentool.diffusion.grids import Final, GridOptions, Rule
from gentool.diffusion.process import Process
from gentool.errors import UserError

Spacing = Callable[[Tensor, float, float, Process, GridOptions], Tensor]


@dataclass(frozen=True)
class Continuous(Rule):
    """`spacing` maps u (n,), rising from 0 to 1, to levels (n,) from high to low."""

    final: Final
    spacing: Spacing
    shape: tuple[str, ...] = ()

    def levels(
        self, steps: int, final: Final, high: float, low: float, process: Process, opts: GridOptions
    ) -> Tensor:
        u = torch.linspace(0, 1, steps + (final == "t-min"), dtype=torch.float64)
        sigma = self.spacing(u, high, low, process, opts)
        sigma[0] = high  # the ends exactly: rules that pass through t or ln sigma miss them by a rounding
        if len(u) > 1:
            sigma[-1] = low
        return sigma


@dataclass(frozen=True)
class Discrete(Rule):
    """`indices(steps, levels)` picks from levels 0 .. levels-1 of a discrete model, noisiest first; their
    times lie evenly over the process's range."""

    final: Final
    indices: Callable[[int, int], Tensor]
    shape: tuple[str, ...] = ("levels",)

    def levels(
        self, steps: int, final: Final, high: float, low: float, process: Process, opts: GridOptions
    ) -> Tensor:
        if steps > opts.levels:
            raise UserError(f"{steps} steps do not fit in the {opts.levels} levels of the model", "steps")
        n = self.indices(steps, opts.levels)
        if final == "t-min":
            n = torch.cat([n, torch.zeros(1, dtype=torch.float64)])
        sigma = process.sigma(process.t_min + n / (opts.levels - 1) * (process.t_max - process.t_min))
        slack = 1e-12
        return sigma[(sigma <= high * (1 + slack)) & (sigma >= low * (1 - slack))]


def _between(u: Tensor, first: float, last: float) -> Tensor:
    return first + u * (last - first)


def _power_t(u: Tensor, high: float, low: float, process: Process, kappa: float) -> Tensor:
    first, last = process.t_of_sigma(torch.tensor([high, low], dtype=torch.float64)).tolist()
    return process.sigma(_between(u, first ** (1 / kappa), last ** (1 / kappa)) ** kappa)


def _quadratic_t(u: Tensor, high: float, low: float, process: Process, opts: GridOptions) -> Tensor:
    """t = t_min + (t_max - t_min) (1 - u)^2: CLD's, denser near data than power-t."""
    first, last = process.t_of_sigma(torch.tensor([high, low], dtype=torch.float64)).tolist()
    return process.sigma(last + (first - last) * (1 - u) ** 2)


def _edm_vp(u: Tensor, high: float, low: float, process: Process, opts: GridOptions) -> Tensor:
    """Uniform time in the linear-beta VP process whose sigma(1) = high and sigma(1e-3) = low."""
    end = 1e-3
    log_high, log_low = math.log1p(high**2), math.log1p(low**2)
    beta_d = 2 * (log_low / end - log_high) / (end - 1)
    beta_min = log_high - beta_d / 2
    t = _between(u, 1.0, end)
    return (beta_d * t**2 / 2 + beta_min * t).expm1().sqrt()


def karras_sigma(u: Tensor, high: float, low: float, rho: float = 7.0) -> Tensor:
    """EDM's noise levels (eq. 5) from `high` at u = 0 to `low` at u = 1."""
    return _between(u, high ** (1 / rho), low ** (1 / rho)) ** rho


karras = Continuous("zero", lambda u, high, low, process, o: karras_sigma(u, high, low, o.rho), ("rho",))
log_snr = Continuous(
    "t-min", lambda u, high, low, process, o: _between(u, math.log(high), math.log(low)).exp()
)
poly_exp = Continuous(
    "zero",
    lambda u, high, low, process, o: _between((1 - u) ** o.power, math.log(low), math.log(high)).exp(),
    ("power",),
)
uniform_sigma = Continuous("zero", lambda u, high, low, process, o: _between(u, high, low))
uniform_t = Continuous("t-min", lambda u, high, low, process, o: _power_t(u, high, low, process, 1.0))
power_t = Continuous(
    "t-min", lambda u, high, low, process, o: _power_t(u, high, low, process, o.kappa), ("kappa",)
)
quadratic_t = Continuous("zero", _quadratic_t)
edm_vp = Continuous("zero", _edm_vp)


def _steps(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float64)


leading = Discrete("zero", lambda steps, levels: (_steps(steps) * (levels // steps)).flip(0))
trailing = Discrete("zero", lambda steps, levels: (levels - _steps(steps) * levels / steps).round() - 1)
linspace = Discrete(
    "zero", lambda steps, levels: (levels - 1 - _steps(steps) * (levels - 1) / max(steps - 1, 1)).round()
)
