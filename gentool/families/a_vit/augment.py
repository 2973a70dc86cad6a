"""DeiT's augmentations, whole batches at a time (Touvron et al. 2021, table 9): crops, mixing and erasing.

Functions of pictures (B, C, H, W) in [-1, 1] and of uniform draws; RandAugment is in `randaugment.py`.
"""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gentool.families.a_vit.config import Augment, Crop
from gentool.families.a_vit.randaugment import gray

ORDERS = tuple(permutations(range(3)))
"""Of brightness, contrast and saturation."""
ERASED = (0.02, 1 / 3)
"""Least and greatest share of a picture that is erased."""
ERASED_RATIO = 10 / 3
"""Greatest ratio of its sides."""


def rectangles(u: Tensor, share: tuple[float, float], ratio: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random rectangles in the unit square from u (B, 4): (top, left, height, width), each (B,).

    Area and log ratio of the sides are uniform; a side that does not fit is cut to 1.
    """
    area = share[0] + (share[1] - share[0]) * u[:, 0]
    aspect = torch.exp((2 * u[:, 1] - 1) * math.log(ratio))
    height, width = (area / aspect).sqrt().clamp(max=1), (area * aspect).sqrt().clamp(max=1)
    return u[:, 2] * (1 - height), u[:, 3] * (1 - width), height, width


def cropped(x: Tensor, u: Tensor, config: Crop) -> Tensor:
    """A random rectangle of each picture, brought to (size, size) bicubically; u (B, 4)."""
    top, left, height, width = rectangles(u, config.scale, config.ratio)
    zero = torch.zeros_like(top)
    theta = torch.stack(
        [
            torch.stack([width, zero, 2 * left + width - 1], 1),
            torch.stack([zero, height, 2 * top + height - 1], 1),
        ],
        1,
    ).to(x.dtype)
    grid = F.affine_grid(theta, [len(x), x.shape[1], config.size, config.size], align_corners=False)
    sampled = F.grid_sample(x, grid, "bicubic", "reflection", align_corners=False)
    return sampled.clamp(-1, 1)


def middle(x: Tensor, size: int) -> Tensor:
    """The central (size, size) of pictures at least so large."""
    top, left = (x.shape[2] - size) // 2, (x.shape[3] - size) // 2
    return x[:, :, top : top + size, left : left + size]


def jittered(x: Tensor, u: Tensor, strength: float) -> Tensor:
    """Brightness, contrast and saturation of each picture multiplied by 1 - strength to 1 + strength; u (B, 4).

    The last of u is the order of the three, one of six. Gray pictures have no saturation.
    """
    factor = 1 + strength * (2 * u[:, :3] - 1)
    turn = (u[:, 3] * len(ORDERS)).long()
    out = torch.empty_like(x)
    for number, order in enumerate(ORDERS):
        rows = (turn == number).nonzero().squeeze(1)
        part = x[rows] / 2 + 0.5
        for kind in order:
            by = factor[rows, kind].view(-1, 1, 1, 1)
            towards = (0.0, gray(part).mean((2, 3), keepdim=True), gray(part))[kind]
            part = (towards + by * (part - towards)).clamp(0, 1)
        out[rows] = 2 * part - 1
    return out


def erased(x: Tensor, u: Tensor, noise: Tensor, chance: float) -> Tensor:
    """A random rectangle of some of the pictures replaced by noise, which is normal; u (B, 5)."""
    top, left, height, width = (side.view(-1, 1, 1, 1) for side in rectangles(u[:, :4], ERASED, ERASED_RATIO))
    rows = ((torch.arange(x.shape[2], device=x.device) + 0.5) / x.shape[2]).view(1, 1, -1, 1)
    columns = ((torch.arange(x.shape[3], device=x.device) + 0.5) / x.shape[3]).view(1, 1, 1, -1)
    inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    return torch.where(inside & (u[:, 4].view(-1, 1, 1, 1) < chance), noise, x)


def mixed(x: Tensor, target: Tensor, config: Augment, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """mixup or CutMix of a batch and itself reversed, one share for all, pictures and targets (B, classes) alike."""
    cut = config.cutmix > 0 and (config.mixup == 0 or random.random() < 0.5)
    alpha = config.cutmix if cut else config.mixup
    if alpha == 0:
        return x, target
    share, other = float(random.beta(alpha, alpha)), x.flip(0)
    if not cut:
        x = share * x + (1 - share) * other
    else:
        height, width = x.shape[2:]
        side = math.sqrt(1 - share)
        top, bottom = span(height, side, random.random())
        left, right = span(width, side, random.random())
        x = x.clone()
        x[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    return x, share * target + (1 - share) * target.flip(0)


def span(length: int, side: float, at: float) -> tuple[int, int]:
    """First and last pixel of a stretch of `side` length around a random middle, cut at the picture's edge."""
    middle_at, half = int(at * length), int(side * length) / 2
    return max(0, math.floor(middle_at - half)), min(length, math.floor(middle_at + half))
