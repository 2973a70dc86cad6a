"""Preconditioning: D(x; sigma) = c_skip x + c_out F(c_in x, c_noise), with x the canonical state.

Source: EDM, table 1 (Karras et al. 2022). A preconditioning is a module so that
what it knows of the data (`sigma_data`) is saved with the weights and cannot be mismatched on loading.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from gentool.diffusion.config import PrecondConfig
from gentool.diffusion.process import Process
from gentool.diffusion.processes import Ddpm, Vp
from gentool.errors import UserError


class Scalings(NamedTuple):
    """The four functions of sigma, each (B,); c_skip and c_in are (B, 2) where the state is data and velocity."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class Precond(nn.Module, ABC):
    """`precond(sigma (B,)) -> Scalings` in sigma's dtype.

    Attributes:
        out_factor: output channels of the network over channels of x (2 where a variance half is dropped).
        continuous: whether the network hears every change of sigma, so that its derivative there means something.
        sigma_data: buffer, standard deviation of the data, NaN until it is known; None where it has no part.
    """

    name: ClassVar[str]
    out_factor: ClassVar[int] = 1
    continuous: ClassVar[bool] = True
    sigma_data: Tensor | None

    def __init__(self, sigma_data: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("sigma_data", sigma_data)

    @abstractmethod
    def forward(self, sigma: Tensor) -> Scalings: ...

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest noise level that the network knows; sigma itself where it knows all."""
        return sigma

    @property
    def unmeasured(self) -> bool:
        """True where `sigma_data` must still be measured or loaded before the first call."""
        return self.sigma_data is not None and bool(self.sigma_data.isnan())

    def set_sigma_data(self, value: float) -> None:
        """Fix the data's standard deviation.

        Raises:
            UserError: unless it is positive and finite.
        """
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"sigma_data must be positive and finite, not {value}: is the data constant?")
        if self.sigma_data is not None:
            self.sigma_data.fill_(value)


class _DataScaled(Precond):
    sigma_data: Tensor

    def __init__(self, sigma_data: float | None = None) -> None:
        super().__init__(torch.tensor(math.nan, dtype=torch.float64))
        if sigma_data is not None:
            self.set_sigma_data(sigma_data)

    def _c_in_noise(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return (sigma**2 + self.sigma_data**2).rsqrt(), sigma.log() / 4


class Edm(_DataScaled):
    """Unit variance of input and target at every sigma, for data of standard deviation `sigma_data`."""

    name = "edm"

    def forward(self, sigma: Tensor) -> Scalings:
        c_in, c_noise = self._c_in_noise(sigma)
        return Scalings(self.sigma_data**2 * c_in**2, sigma * self.sigma_data * c_in, c_in, c_noise)


class X0(_DataScaled):
    """F is x0; input and noise embedding as EDM."""

    name = "x0"

    def forward(self, sigma: Tensor) -> Scalings:
        return Scalings(torch.zeros_like(sigma), torch.ones_like(sigma), *self._c_in_noise(sigma))


def _eps(sigma: Tensor, c_noise: Tensor) -> Scalings:
    return Scalings(torch.ones_like(sigma), -sigma, torch.rsqrt(1 + sigma**2), c_noise)


class VpEps(Precond):
    """F is eps; c_noise is the process's time in steps.

    On `ddpm` N t - 1, the level, whole on levels (`round_sigma` snaps to them); on other variance-preserving
    processes 999 t; on the rest, 999 t of the linear-beta VP (EDM, table 1).
    """

    name = "vp"

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process = process if process.variance_preserving else Vp()
        self._scale, self._shift = 999.0, 0.0
        if isinstance(process, Ddpm):
            self._scale, self._shift = float(process.levels), 1.0

    def forward(self, sigma: Tensor) -> Scalings:
        t = self.process.t_of_sigma(sigma.double())
        return _eps(sigma, (self._scale * t - self._shift).to(sigma.dtype))

    def round_sigma(self, sigma: Tensor) -> Tensor:
        if not isinstance(self.process, Ddpm):
            return sigma
        levels = torch.arange(1, self.process.levels + 1, dtype=torch.float64, device=sigma.device)
        return _nearest(self.process.sigma(levels / self.process.levels), sigma)[0].to(sigma.dtype)


class Ve(Precond):
    """F is -eps (the score times sigma), input unscaled, c_noise = ln(sigma/2)."""

    name = "ve"

    def forward(self, sigma: Tensor) -> Scalings:
        one = torch.ones_like(sigma)
        return Scalings(one, sigma, one, (sigma / 2).log())


class Iddpm(Precond):
    """F is eps (its first half of channels) at discrete levels u_j, c_noise = M - 1 - argmin_j |u_j - sigma|.

    u_M = 0, u_{j-1} = sqrt((u_j^2 + 1)/max(abar(j-1)/abar(j), C1) - 1), abar(j) = sin^2(pi j/(2 M (C2 + 1))),
    C1 = 0.001, C2 = 0.008 (EDM, table 1 and appendix C.3).

    Attributes:
        levels: (M + 1,) float64 buffer, noisiest first, outside the state dict.
    """

    name = "iddpm"
    out_factor = 2
    continuous = False
    levels: Tensor

    def __init__(self, levels: int = 1000) -> None:
        super().__init__()
        c1, c2 = 0.001, 0.008
        bars = [math.sin(math.pi / 2 * j / (levels * (c2 + 1))) ** 2 for j in range(levels + 1)]
        u = [0.0]
        for j in range(levels, 0, -1):
            u.append(math.sqrt((u[-1] ** 2 + 1) / max(bars[j - 1] / bars[j], c1) - 1))
        self.register_buffer("levels", torch.tensor(u[::-1], dtype=torch.float64), persistent=False)

    def forward(self, sigma: Tensor) -> Scalings:
        index = _nearest(self.levels, sigma)[1]
        return _eps(sigma, (len(self.levels) - 2 - index).to(sigma.dtype))

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return _nearest(self.levels, sigma)[0].to(sigma.dtype)


class V(Precond):
    """F is v = alpha eps - std x0; c_noise = time_scale (2/pi) arctan(sigma). EDM with sigma_data 1 and F ->
    -F."""

    name = "v"

    def __init__(self, time_scale: float = 1000.0) -> None:
        super().__init__()
        self.time_scale = time_scale

    def forward(self, sigma: Tensor) -> Scalings:
        c_in = torch.rsqrt(1 + sigma**2)
        return Scalings(c_in**2, -sigma * c_in, c_in, self.time_scale * 2 / math.pi * sigma.atan())


class Flow(Precond):
    """F is x0 - eps, flow matching's velocity; c_noise = time_scale / (1 + sigma), its time with data at
    1."""

    name = "flow"

    def __init__(self, time_scale: float = 1000.0) -> None:
        super().__init__()
        self.time_scale = time_scale

    def forward(self, sigma: Tensor) -> Scalings:
        alpha = 1 / (1 + sigma)
        return Scalings(alpha, sigma * alpha, alpha, self.time_scale * alpha)


def _nearest(levels: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(values, indices) of the nearest entry of `levels` (M,) for each sigma."""
    index = (sigma.double().unsqueeze(-1) - levels).abs().argmin(-1)
    return levels[index], index


def build(config: PrecondConfig, process: Process) -> Precond:
    """The preconditioning of a recipe's `precond:` block; with `sigma_data: data` it is `unmeasured`."""
    if config.name in ("edm", "x0"):
        known = None if config.sigma_data == "data" else config.sigma_data
        return Edm(known) if config.name == "edm" else X0(known)
    if config.name == "vp":
        return VpEps(process)
    if config.name == "iddpm":
        return Iddpm(config.levels)
    if config.name == "v":
        return V(config.time_scale)
    return Flow(config.time_scale) if config.name == "flow" else Ve()


def measure_sigma_data(batches: Iterable[Tensor]) -> float:
    """Standard deviation of all values of `batches` about their common mean; raises as `measure_moments`."""
    return measure_moments(batches)[1]


def measure_moments(batches: Iterable[Tensor]) -> tuple[float, float]:
    """Mean of all values of `batches` (floats, as the network sees them), and their standard deviation about it.

    Raises:
        UserError: when there are no values, or any is not finite.
    """
    count, total, squares = 0, 0.0, 0.0
    for batch in batches:
        x = batch.double()
        count += x.numel()
        total += x.sum().item()
        squares += x.square().sum().item()
    if not count or not math.isfinite(squares):
        raise UserError(
            "sigma_data cannot be measured: the data " + ("are not finite" if count else "are empty")
        )
    mean = total / count
    return mean, math.sqrt(max(squares / count - mean**2, 0.0))
