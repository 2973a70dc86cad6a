"""Forward processes in one formulation: x_t = alpha(t) x0 + std(t) eps, canonical state x = x_t / alpha.

Time runs from data (small t) to noise (large t) in every process. Source: specs/diffusion-core.md 2.1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor


class Process(ABC):
    """Functions of time on float64 tensors of any shape.

    Attributes:
        t_min, t_max: where sampling ends and starts.
        state_parts: 1 for processes in data space; 2 when a velocity rides along (CLD).
    """

    name: ClassVar[str]
    state_parts: ClassVar[int] = 1
    t_min: float
    t_max: float

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

    def g2(self, t: Tensor) -> Tensor:
        """Squared diffusion g^2 = 2 alpha^2 sigma sigma' of the forward SDE in the original variable."""
        return 2 * self.alpha(t) ** 2 * self.sigma(t) * self.dsigma(t)

    @property
    @abstractmethod
    def sigma_min(self) -> float:
        """sigma(t_min)."""

    @property
    @abstractmethod
    def sigma_max(self) -> float:
        """sigma(t_max)."""

    @property
    @abstractmethod
    def prior_std(self) -> float:
        """Standard deviation of the canonical state's prior at t_max (VP: 1/alpha, VE and EDM: sigma_max)."""
