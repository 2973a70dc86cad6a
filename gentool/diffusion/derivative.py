"""d eps/d sigma along the probability flow: exact, by forward-mode differentiation, or as a distilled head has it.

In the canonical state the flow is dx/dsigma = eps(x, sigma), so that its second derivative in sigma is the total
derivative J_x eps . eps + d eps/d sigma: one Jacobian-vector product with the tangent (eps, 1). Source: GENIE
(Dockhorn, Vahdat and Kreis 2022, arXiv 2210.05475), section 3; its gamma is sigma here, its x-bar is x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from gentool.diffusion.convert import per_sample
from gentool.diffusion.denoiser import Denoiser
from gentool.networks.base import Features
from gentool.networks.head import Head

Eps = Callable[[Tensor, Tensor], Tensor]
"""(x (B, ...), sigma (B,)) -> eps (B, ...)."""

Mode = Literal["forward", "double-backward"]


def along_flow(
    eps: Eps, x: Tensor, sigma: Tensor, direction: Tensor, mode: Mode = "forward"
) -> tuple[Tensor, Tensor]:
    """(eps, d eps/d sigma) at (x, sigma), both (B, ...), for a flow that moves x by `direction` per unit of sigma.

    Args:
        direction: eps(x, sigma) itself, found before.
        mode: `double-backward` takes two reverse passes, for networks with an operation that forward-mode
            differentiation does not know; the result is the same.
    """
    # forward mode takes no expanded tensors: their one element would have to hold many tangents
    point, tangent = (x.contiguous(), sigma.contiguous()), (direction.contiguous(), torch.ones_like(sigma))
    if mode == "forward":
        value, slope = torch.func.jvp(eps, point, tangent)  # type: ignore[misc]  # two, without has_aux
        return value, slope
    value, pull = torch.func.vjp(eps, *point)  # type: ignore[misc]
    # v -> J^T v is linear in v, so that its own pullback at the tangent is J tangent
    _, push = torch.func.vjp(pull, torch.zeros_like(value))  # type: ignore[misc]
    (slope,) = push(tangent)
    return value, slope


def find_mode(eps: Eps, x: Tensor, sigma: Tensor) -> Mode:
    """Forward mode, or double-backward where the network has an operation without a forward derivative."""
    try:
        along_flow(eps, x, sigma, torch.zeros_like(x))
    except (RuntimeError, NotImplementedError) as error:
        if "forward" not in str(error).lower():
            raise
        return "double-backward"
    return "forward"


def mixed(parts: Tensor, sigma: Tensor) -> Tensor:
    """-k1/sigma + sigma/(1 + sigma^2) k2 + k3/(sigma (1 + sigma^2)): the mixed parameterisation (GENIE, eq. 15).

    The first two terms are the shapes of the two Jacobian-vector products, the third that of the whole derivative
    for data N(0, I): each k stays of order 1 from noise to data.

    Args:
        parts: (B, 3 C, ...), k1, k2 and k3 side by side.
        sigma: (B,).

    Returns:
        (B, C, ...).
    """
    k1, k2, k3 = parts.chunk(3, dim=1)
    total = 1 + sigma**2
    return (
        per_sample(-1 / sigma, k1) * k1
        + per_sample(sigma / total, k2) * k2
        + per_sample(1 / (sigma * total), k3) * k3
    )


class DerivativeHead(nn.Module):
    """A head on a frozen denoiser that predicts d eps/d sigma along the flow (GENIE, section 3.2).

    It reads the state x / sqrt(1 + sigma^2) (which is x_t of a variance-preserving process), the predicted eps, and
    the features of the call that predicted it, so that value and derivative cost one call of the network.

    Args:
        network: with three output channels for each of the state's where `mixing`, else with one.
        mixing: whether its output goes through `mixed`, or is the derivative itself.
    """

    def __init__(self, network: Head, mixing: bool = True) -> None:
        super().__init__()
        self.network = network
        self.mixing = mixing

    def forward(self, x: Tensor, eps: Tensor, sigma: Tensor, features: Features | None) -> Tensor:
        """x, eps (B, ...), sigma (B,) -> d eps/d sigma (B, ...)."""
        out = self.network(per_sample(torch.rsqrt(1 + sigma**2), x) * x, eps, sigma.log() / 4, features)
        return mixed(out, sigma) if self.mixing else out

    def call(
        self, denoiser: Denoiser, x: Tensor, sigma: Tensor, label: Tensor | None
    ) -> tuple[Tensor, Tensor, Features | None]:
        """(D, eps, features) of one call of the denoiser's network; no features where the head reads none."""
        if self.network.reads:
            x0, features = denoiser.features(x, sigma, label)
        else:
            x0, features = denoiser(x, sigma, label), None
        return x0, (x.to(x0.dtype) - x0) / per_sample(sigma.to(x0.dtype), x0), features

    def predict(
        self, denoiser: Denoiser, x: Tensor, sigma: Tensor, label: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(D, d eps/d sigma), both (B, ...), from one call of the denoiser's network."""
        x0, eps, features = self.call(denoiser, x, sigma, label)
        return x0, self(x.to(x0.dtype), eps, sigma.to(x0.dtype), features)
