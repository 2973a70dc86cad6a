"""What a perfect GENIE head and a network with learned variances predict, for tests of solvers that ask for them."""

from __future__ import annotations

import torch
from torch import Tensor

from gentool.diffusion.convert import per_sample
from gentool.diffusion.derivative import along_flow
from gentool.diffusion.predictor import Denoise, Derive, Spread


def perfect_head(denoise: Denoise) -> Derive:
    """The denoiser's prediction and its exact derivative along the flow, at one counted call."""

    def derive(x: Tensor, sigma: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        def eps(x: Tensor, sigma: Tensor) -> Tensor:
            return (x - denoise(x, sigma, label)) / per_sample(sigma, x)

        return denoise(x, sigma, label), along_flow(eps, x, sigma, eps(x, sigma))[1]

    return derive


def known_data(denoise: Denoise) -> Spread:
    """The denoiser's prediction with the variances of the posterior of known data: those of `ddpm`."""

    def spread(x: Tensor, sigma: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        return denoise(x, sigma, label), -torch.ones_like(x)

    return spread
