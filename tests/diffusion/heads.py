"""What a perfect GENIE head predicts, for tests of solvers that ask for one."""

from __future__ import annotations

from torch import Tensor

from gentool.diffusion.convert import per_sample
from gentool.diffusion.derivative import along_flow
from gentool.diffusion.predictor import Denoise, Derive


def perfect_head(denoise: Denoise) -> Derive:
    """The denoiser's prediction and its exact derivative along the flow, at one counted call."""

    def derive(x: Tensor, sigma: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        def eps(x: Tensor, sigma: Tensor) -> Tensor:
            return (x - denoise(x, sigma, label)) / per_sample(sigma, x)

        return denoise(x, sigma, label), along_flow(eps, x, sigma, eps(x, sigma))[1]

    return derive
