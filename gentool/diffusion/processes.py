"""The forward processes of the literature; built from their recipe block by `build`.

Sources: score SDE (2011.13456), appendix C; EDM, table 1. Small differences (1 - alpha^2 near data) are
evaluated by expm1 or in a closed form: VP's std at t = 1e-5 is 1.0005e-3, and subtracting from 1 loses half
its digits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gentool.diffusion.config import ProcessConfig
from gentool.diffusion.process import Process


class Edm(Process):
    """sigma(t) = t, alpha = 1 (Karras et al. 2022). Times are noise levels."""

    name = "edm"

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        self.t_min, self.t_max = sigma_min, sigma_max

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        return sigma

    def dlog_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def dsigma(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class Ve(Edm):
    """sigma(t) = sqrt(t), alpha = 1: variance exploding in EDM's form (score SDE; EDM, table 1)."""

    name = "ve"

    def __init__(self, sigma_min: float = 0.02, sigma_max: float = 100.0) -> None:
        super().__init__(sigma_min**2, sigma_max**2)

    def sigma(self, t: Tensor) -> Tensor:
        return t.sqrt()

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        return sigma**2

    def dsigma(self, t: Tensor) -> Tensor:
        return 0.5 / t.sqrt()


class Flow(Process):
    """Straight path x_t = (1 - t) x0 + t eps (flow matching, CondOT), time reversed: noise at t = 1.

    The range stays below t = 1, where sigma is infinite.
    """

    name = "flow"

    def __init__(self, t_min: float = 1e-3, t_max: float = 0.999) -> None:
        self.t_min, self.t_max = t_min, t_max

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t / (1 - t)

    def std(self, t: Tensor) -> Tensor:
        return t

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        return sigma / (1 + sigma)

    def dlog_alpha(self, t: Tensor) -> Tensor:
        return -1 / (1 - t)

    def dsigma(self, t: Tensor) -> Tensor:
        return (1 - t) ** -2


class Trig(Process):
    """alpha = cos a, std = sin a up to the offset of `Cosine`; the phase a is linear in t in [0, 1].

    With offset s: a(t) = (t + s)/(1 + s) pi/2 and alpha = cos a / cos a(0), so that alpha(0) = 1 (improved
    DDPM). sigma^2 = sin(a - a0) sin(a + a0) / cos^2 a, without cancellation near data.
    """

    name = "trig"
    variance_preserving = True
    offset = 0.0

    def __init__(self, logsnr_max: float = 13.0, logsnr_min: float = -9.0) -> None:
        self._rate = math.pi / 2 / (1 + self.offset)
        self._phase0 = self._rate * self.offset
        ends = torch.tensor([-logsnr_max / 2, -logsnr_min / 2], dtype=torch.float64).exp()
        self.t_min, self.t_max = self.t_of_sigma(ends).tolist()

    def _phase(self, t: Tensor) -> Tensor:
        return self._phase0 + self._rate * t

    def alpha(self, t: Tensor) -> Tensor:
        return self._phase(t).cos() / math.cos(self._phase0)

    def sigma(self, t: Tensor) -> Tensor:
        a = self._phase(t)
        return ((self._rate * t).sin() * (a + self._phase0).sin()).sqrt() / a.cos()

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        a = torch.atan(torch.sqrt(sigma**2 + math.sin(self._phase0) ** 2) / math.cos(self._phase0))
        return (a - self._phase0) / self._rate

    def dlog_alpha(self, t: Tensor) -> Tensor:
        return -self._rate * self._phase(t).tan()

    def dsigma(self, t: Tensor) -> Tensor:
        sigma = self.sigma(t)
        return self._rate * self._phase(t).tan() * (1 + sigma**2) / sigma


class Cosine(Trig):
    """Improved DDPM's cosine schedule in continuous time, clipped in log-SNR because alpha(1) = 0."""

    name = "cosine"
    offset = 0.008

    def __init__(self, logsnr_max: float = 10.2, logsnr_min: float = -10.2) -> None:
        super().__init__(logsnr_max, logsnr_min)


class Vp(Process):
    """Variance preserving with beta(t) = beta_min + beta_d t on (0, 1] (score SDE, appendix C).

    alpha = exp(-B/2), sigma = sqrt(e^B - 1), B = beta_min t + beta_d t^2 / 2; f = -beta/2 and g^2 = beta.
    """

    name = "vp"
    variance_preserving = True

    def __init__(
        self, beta_min: float = 0.1, beta_d: float = 19.9, t_min: float = 1e-3, train_t_min: float = 1e-5
    ) -> None:
        self.beta_min, self.beta_d = beta_min, beta_d
        self.t_min, self.t_max = t_min, 1.0
        self._train_t_min = train_t_min

    @property
    def train_t_min(self) -> float:
        return self._train_t_min

    def _integral(self, t: Tensor) -> Tensor:
        return self.beta_min * t + 0.5 * self.beta_d * t**2

    def alpha(self, t: Tensor) -> Tensor:
        return (-0.5 * self._integral(t)).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return self._integral(t).expm1().sqrt()

    def std(self, t: Tensor) -> Tensor:
        return (-(-self._integral(t)).expm1()).sqrt()

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        log = torch.log1p(sigma**2)  # the root with the sum below, so that small times keep their digits
        return 2 * log / (torch.sqrt(self.beta_min**2 + 2 * self.beta_d * log) + self.beta_min)

    def dlog_alpha(self, t: Tensor) -> Tensor:
        return -0.5 * (self.beta_min + self.beta_d * t)

    def dsigma(self, t: Tensor) -> Tensor:
        sigma = self.sigma(t)
        return 0.5 * (self.beta_min + self.beta_d * t) * (1 + sigma**2) / sigma


class Ddpm(Process):
    """Levels n = 0 .. N-1 with alpha_n^2 = prod_{k<=n} (1 - beta_k), at times t_n = (n + 1)/N (DDPM).

    log alpha is linear between levels, and from level 0 to log alpha = 0 at t = 0; networks are told N t - 1,
    which need not be whole. Slopes are those of the segment that starts at t.

    Attributes:
        levels: N.
        log_alphas: (N + 1,) float64, log alpha at t = 0, 1/N .. 1.
    """

    name = "ddpm"
    variance_preserving = True

    def __init__(
        self, levels: int = 1000, betas: str = "linear", beta_min: float = 1e-4, beta_max: float = 0.02
    ) -> None:
        self.levels = levels
        self.t_min, self.t_max = 1 / levels, 1.0
        log_alphas = 0.5 * torch.log1p(-_betas(betas, levels, beta_min, beta_max)).cumsum(0)
        self.log_alphas = torch.cat([torch.zeros(1, dtype=torch.float64), log_alphas])
        self._on_device: dict[torch.device, Tensor] = {}

    def _table(self, like: Tensor) -> Tensor:
        if like.device not in self._on_device:
            self._on_device[like.device] = self.log_alphas.to(like.device)
        return self._on_device[like.device]

    def _segment(self, t: Tensor) -> Tensor:
        """Index of the segment that holds t; times on a level belong to the segment that starts there."""
        # (n + 1)/N times N may come out a hair below n + 1
        return (t.double() * self.levels + 1e-9).floor().long().clamp(0, self.levels - 1)

    def _slope(self, segment: Tensor, table: Tensor) -> Tensor:
        return (table[segment + 1] - table[segment]) * self.levels

    def _log_alpha(self, t: Tensor) -> Tensor:
        table, segment = self._table(t), self._segment(t)
        start = segment.double() / self.levels
        return (table[segment] + self._slope(segment, table) * (t.double() - start)).to(t.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-2 * self._log_alpha(t)).expm1().sqrt()

    def std(self, t: Tensor) -> Tensor:
        return (-(2 * self._log_alpha(t)).expm1()).sqrt()

    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        table = self._table(sigma)
        log_alpha = -0.5 * torch.log1p(sigma.double() ** 2)
        segment = torch.searchsorted(-table, -log_alpha.reshape(-1), right=True) - 1
        segment = segment.reshape(sigma.shape).clamp(0, self.levels - 1)
        t = segment.double() / self.levels + (log_alpha - table[segment]) / self._slope(segment, table)
        return t.to(sigma.dtype)

    def dlog_alpha(self, t: Tensor) -> Tensor:
        return self._slope(self._segment(t), self._table(t)).to(t.dtype)

    def dsigma(self, t: Tensor) -> Tensor:
        sigma = self.sigma(t)
        return -self.dlog_alpha(t) * (1 + sigma**2) / sigma


def _betas(kind: str, levels: int, beta_min: float, beta_max: float) -> Tensor:
    """(levels,) float64 in (0, 1): DDPM's, latent diffusion's and improved DDPM's."""
    if kind == "linear":
        return torch.linspace(beta_min, beta_max, levels, dtype=torch.float64)
    if kind == "scaled-linear":
        return torch.linspace(beta_min**0.5, beta_max**0.5, levels, dtype=torch.float64) ** 2
    t = torch.arange(levels + 1, dtype=torch.float64) / levels
    bars = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - bars[1:] / bars[:-1]).clamp(max=0.999)


_PROCESSES: dict[str, type[Process]] = {p.name: p for p in (Edm, Ve, Vp, Ddpm, Cosine, Trig, Flow)}


def build(config: ProcessConfig) -> Process:
    """The process of a recipe's `process:` block, whose keys are the constructor's arguments."""
    return _PROCESSES[config.name](**config.model_dump(exclude={"name"}))
