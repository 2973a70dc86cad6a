"""The private step: a gradient that real images have touched, clipped and noised before anything else sees it.

A real image Y_j acts on every generated image's gradient, so there are no gradients of single records to clip. What is
bounded is the whole: after clipping, the gradient lies in a ball of radius C whatever the batch, so adding or removing
one record moves it by at most the ball's diameter, 2 C (Cao et al. 2021, arXiv 2111.01177, theorem 1; the Poisson
subsampled Gaussian's accountant asks for no more). With the rows clipped one by one it lies in a product of n balls,
of diameter 2 C sqrt(n). The number of rows is fixed beforehand: released, it says nothing of the batch.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Clip = Literal["tensor", "row"]


def clipped(gradient: Tensor, bound: float, clip: Clip = "tensor") -> Tensor:
    """The gradient scaled down to an L2 norm of at most `bound`: all of it, or each of its rows.

    Where it is NaN or infinite the tensor, or the row, is 0: in the ball like any other.
    """
    flat = gradient.flatten(1) if clip == "row" else gradient.flatten()[None]
    flat = torch.where(flat.isfinite().all(1, keepdim=True), flat, 0)
    # in float64: the square of a large float32 gradient overflows, and the bound must hold to the last digit
    norm = flat.double().norm(dim=1, keepdim=True)
    return (flat * (bound / (norm + 1e-6)).clamp(max=1).to(flat.dtype)).view_as(gradient)


def release(gradient: Tensor, noise: Tensor, bound: float, clip: Clip = "tensor") -> Tensor:
    """The images' gradient as the generator may see it.

    Args:
        gradient: (n + n', ...) of the loss with respect to the generated images.
        noise: (n, ...) for the first n rows, which depend on real images: they are clipped, and it is added. The
            other rows depend on generated images alone: they need no noise, and are clipped to the same bound so
            that both parts of the loss keep their proportion.
        bound: C > 0.
    """
    private, public = gradient[: len(noise)], gradient[len(noise) :]
    noisy = clipped(private, bound, clip) + noise.to(gradient)
    return torch.cat([noisy, clipped(public, bound, clip)]) if len(public) else noisy
