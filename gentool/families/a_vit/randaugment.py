"""RandAugment (Cubuk et al. 2020) on batches of tensors, in the form DeiT trains with: strength grows with magnitude.

Operations take pictures (B, C, H, W) in [0, 1] and levels (B, 1, 1, 1) in [-1, 1]; those without a direction take the
level's size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

GRAY = (0.299, 0.587, 0.114)
"""ITU-R 601."""


def warped(x: Tensor, xx: Tensor, xy: Tensor, yx: Tensor, yy: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Pictures resampled at (xx x + xy y + dx, yx x + yy y + dy), x and y in [-1, 1]; mid-gray outside."""
    theta = torch.stack([torch.stack([xx, xy, dx], 1), torch.stack([yx, yy, dy], 1)], 1).to(x.dtype)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x - 0.5, grid, "bilinear", "zeros", align_corners=False) + 0.5


def rotate(x: Tensor, level: Tensor) -> Tensor:
    angle, zero = level.flatten() * math.radians(30), torch.zeros(len(x), device=x.device)
    aspect = x.shape[2] / x.shape[3]
    return warped(x, angle.cos(), -angle.sin() * aspect, angle.sin() / aspect, angle.cos(), zero, zero)


def _affine(x: Tensor, *, xy: Tensor | None = None, yx: Tensor | None = None, **moves: Tensor) -> Tensor:
    one, zero = torch.ones(len(x), device=x.device), torch.zeros(len(x), device=x.device)
    shear_x, shear_y = zero if xy is None else xy, zero if yx is None else yx
    return warped(x, one, shear_x, shear_y, one, moves.get("dx", zero), moves.get("dy", zero))


def shear_x(x: Tensor, level: Tensor) -> Tensor:
    return _affine(x, xy=0.3 * level.flatten())


def shear_y(x: Tensor, level: Tensor) -> Tensor:
    return _affine(x, yx=0.3 * level.flatten())


def translate_x(x: Tensor, level: Tensor) -> Tensor:
    return _affine(x, dx=0.9 * level.flatten())  # 0.45 of the width, which is 2


def translate_y(x: Tensor, level: Tensor) -> Tensor:
    return _affine(x, dy=0.9 * level.flatten())


def blend(x: Tensor, towards: Tensor, level: Tensor) -> Tensor:
    """From `towards` at a factor of 0 through x at 1: a factor of 1 + 0.9 level."""
    return (towards + (1 + 0.9 * level) * (x - towards)).clamp(0, 1)


def gray(x: Tensor) -> Tensor:
    """(B, 1, H, W)."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * x.new_tensor(GRAY).view(1, 3, 1, 1)).sum(1, keepdim=True)


def color(x: Tensor, level: Tensor) -> Tensor:
    return blend(x, gray(x).expand_as(x), level)


def contrast(x: Tensor, level: Tensor) -> Tensor:
    return blend(x, gray(x).mean((2, 3), keepdim=True).expand_as(x), level)


def brightness(x: Tensor, level: Tensor) -> Tensor:
    return blend(x, torch.zeros_like(x), level)


def sharpness(x: Tensor, level: Tensor) -> Tensor:
    kernel = x.new_tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    smooth = F.conv2d(
        F.pad(x, (1, 1, 1, 1), "replicate"), kernel.expand(x.shape[1], 1, 3, 3), groups=x.shape[1]
    )
    return blend(x, smooth, level)


def invert(x: Tensor, level: Tensor) -> Tensor:
    return 1 - x


def auto_contrast(x: Tensor, level: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp(min=1e-6), x)


def equalize(x: Tensor, level: Tensor) -> Tensor:
    """Each channel's values by their rank: its histogram of 256 bins made flat."""
    bins = (x * 255).round().long().flatten(2)
    counts = torch.zeros(*bins.shape[:2], 256, device=x.device).scatter_add_(
        2, bins, torch.ones_like(bins, dtype=torch.float32)
    )
    below = counts.cumsum(2) - counts
    last = counts.gather(2, bins.amax(2, keepdim=True))
    rank = below.gather(2, bins) / (bins.shape[2] - last).clamp(min=1)
    flat = torch.where(last == bins.shape[2], x.flatten(2), rank.to(x.dtype))
    return flat.clamp(0, 1).view_as(x)


def posterize(x: Tensor, level: Tensor) -> Tensor:
    step = 2.0 ** (8 - (4 - (4 * level.abs()).floor()).clamp(min=1))
    return ((x * 255).round() / step).floor() * step / 255


def solarize(x: Tensor, level: Tensor) -> Tensor:
    return torch.where(x >= 1 - level.abs(), 1 - x, x)


def solarize_add(x: Tensor, level: Tensor) -> Tensor:
    return torch.where(x < 0.5, (x + level.abs() * 110 / 255).clamp(max=1), x)


OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    auto_contrast,
    equalize,
    invert,
    rotate,
    posterize,
    solarize,
    solarize_add,
    color,
    contrast,
    brightness,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)


def rand_augmented(x: Tensor, u: Tensor, strength: Tensor) -> Tensor:
    """Each picture through operations of its own.

    Args:
        x: (B, C, H, W) in [-1, 1].
        u: (B, operations, 3) uniform: which operation, whether at all, in which direction.
        strength: (B, operations), 0 to 1.
    """
    x = x / 2 + 0.5
    for turn in range(u.shape[1]):
        chosen = (u[:, turn, 0] * len(OPERATIONS)).long()
        level = (strength[:, turn].clamp(0, 1) * torch.where(u[:, turn, 2] < 0.5, -1.0, 1.0)).to(x.dtype)
        taken, out = u[:, turn, 1] < 0.5, x.clone()
        for number, operation in enumerate(OPERATIONS):
            rows = ((chosen == number) & taken).nonzero().squeeze(1)
            if len(rows):
                out[rows] = operation(x[rows], level[rows].view(-1, 1, 1, 1))
        x = out
    return 2 * x - 1
