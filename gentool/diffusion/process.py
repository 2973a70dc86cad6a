"""Forward processes in one formulation: x_t = alpha(t) x0 + std(t) eps, canonical state x = x_t / alpha.

Time runs from data (small t) to noise (large t) in every process. Source: EDM, appendix B.1. The
concrete processes are in `processes`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor


class Process(ABC):
    """Functions of time on float64 tensors of any shape.

    Attributes:
        t_min, t_max: where sampling ends and starts.
        train_t_min: the smallest time of training and likelihood; t_min unless the process says otherwise.
        state_parts: 1 for processes in data space; 2 when a velocity rides along (CLD): a state is then
            (B, 2, ...), the data in row 0.
        variance_preserving: alpha^2 + std^2 = 1.
    """

    name: ClassVar[str]
    state_parts: ClassVar[int] = 1
    variance_preserving: ClassVar[bool] = False
    t_min: float
    t_max: float

    @property
    def train_t_min(self) -> float:
        return self.t_min

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise-to-signal ratio std/alpha; strictly increasing in t."""

    @abstractmethod
    def t_of_sigma(self, sigma: Tensor) -> Tensor:
        """Inverse of `sigma`."""

    @abstractmethod
    def dlog_alpha(self, t: Tensor) -> Tensor:
        """f(t) = d ln alpha / dt."""

    @abstractmethod
    def dsigma(self, t: Tensor) -> Tensor:
        """d sigma / dt."""

    def std(self, t: Tensor) -> Tensor:
        """Noise scale of the original variable."""
        return self.alpha(t) * self.sigma(t)

    def dalpha(self, t: Tensor) -> Tensor:
        """d alpha / dt."""
        return self.alpha(t) * self.dlog_alpha(t)

    def dstd(self, t: Tensor) -> Tensor:
        """d std / dt."""
        return self.dalpha(t) * self.sigma(t) + self.alpha(t) * self.dsigma(t)

    def g2(self, t: Tensor) -> Tensor:
        """Squared diffusion g^2 = 2 alpha^2 sigma sigma' of the forward SDE in the original variable."""
        return 2 * self.alpha(t) ** 2 * self.sigma(t) * self.dsigma(t)

    @property
    def sigma_min(self) -> float:
        """sigma(t_min)."""
        return self._sigma_at(self.t_min)

    @property
    def sigma_max(self) -> float:
        """sigma(t_max)."""
        return self._sigma_at(self.t_max)

    @property
    def train_sigma_min(self) -> float:
        """sigma(train_t_min): the smallest noise level a network of this process was trained on."""
        return self._sigma_at(self.train_t_min)

    @property
    def prior_std(self) -> float:
        """Standard deviation of the canonical state's prior at t_max (VP: 1/alpha, VE and EDM: sigma_max)."""
        if self.variance_preserving:
            return 1 / self.alpha(torch.tensor(self.t_max, dtype=torch.float64)).item()
        return self.sigma_max

    def prior_scale(self, sigma: float) -> float:
        """What N(0, 1) is multiplied by to start sampling at the level sigma."""
        return sigma * self.prior_std / self.sigma_max

    def state_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of one sample's state, for data of this shape."""
        return tuple(shape) if self.state_parts == 1 else (self.state_parts, *shape)

    def data_part(self, state: Tensor) -> Tensor:
        """(B, ...) data of a state."""
        return state if self.state_parts == 1 else state[:, 0]

    def _sigma_at(self, t: float) -> float:
        return self.sigma(torch.tensor(t, dtype=torch.float64)).item()
