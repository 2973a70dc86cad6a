"""Penalties that are taken every few steps, and what makes up for it (Karras et al. 2020, StyleGAN2, appendix B)."""

from __future__ import annotations

import torch
from torch import Tensor

from gentool.recipes.schema import Optimizer


def rescaled(config: Optimizer, every: int) -> Optimizer:
    """An optimiser that takes a step for the penalty after every k for the loss: lr c and betas^c, c = k/(k + 1).

    Its time constants stay what they would be, counted in steps for the loss.
    """
    c = every / (every + 1)
    first, second = config.betas
    return config.model_copy(update={"lr": c * config.lr, "betas": (first**c, second**c)})


def path_lengths(image: Tensor, ws: Tensor, noise: Tensor) -> Tensor:
    """(B,) lengths of J^T y, y = noise/sqrt(H W), J the picture's Jacobian in w; root mean square over layers.

    Differentiable; eq. 4.

    Args:
        image: (B, C, H, W), made from `ws` (B, num_ws, style).
        noise: (B, C, H, W) standard normal.
    """
    height, width = image.shape[2:]
    projected = (image * noise).sum() / (height * width) ** 0.5
    (gradient,) = torch.autograd.grad(projected, ws, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()
