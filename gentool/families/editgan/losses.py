"""Regions of an edit, and losses that hold a picture outside them (Ling et al. 2021, 2111.03186, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Maps = Callable[[Tensor], list[Tensor]]
"""Pictures (B, C, H, W) in [-1, 1] -> feature maps (B, C_i, h_i, w_i)."""
DILATIONS = 3


def dilated(region: Tensor, times: int = DILATIONS) -> Tensor:
    """A region (B, H, W) bool grown by a pixel to all eight sides, so many times."""
    grown = region[:, None].float()
    for _ in range(times):
        grown = F.max_pool2d(grown, 3, stride=1, padding=1)
    return grown[:, 0] > 0


def region_of(before: Tensor, after: Tensor, edited: Tensor | None = None) -> Tensor:
    """(B, H, W) bool where an edit may change the picture: where edited classes are, or were, and around.

    Args:
        before, after: label maps (B, H, W).
        edited: (B, K) bool, the classes; None: those of the pixels that differ, where these pixels alone are the
            region (a painted area).
    """
    if edited is None:
        return dilated(before != after)
    found = [torch.gather(edited, 1, labels.flatten(1)).view_as(labels) for labels in (before, after)]
    return dilated(found[0] | found[1])


def edited_classes(before: Tensor, after: Tensor, classes: int) -> Tensor:
    """(B, K) bool: classes that gain or lose a pixel."""
    changed = (before != after).flatten(1)
    found = torch.zeros(len(before), classes, dtype=torch.bool, device=before.device)
    for labels in (before, after):
        hot = F.one_hot(labels.flatten(1), classes).bool()
        found |= (hot & changed[..., None]).any(1)
    return found


def perceptual(maps: Maps | None, x: Tensor, y: Tensor) -> Tensor:
    """(B,) mean over places of squared distances of unit feature vectors, summed over maps, as LPIPS without its
    learnt weights (Zhang et al. 2018, 1801.03924, eq. 1); 0 without a network."""
    if maps is None:
        return x.new_zeros(len(x))
    total = x.new_zeros(len(x))
    for a, b in zip(maps(x), maps(y)):
        total = total + (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean((1, 2))
    return total


def squared(x: Tensor, y: Tensor) -> Tensor:
    """(B,) mean squared error of pictures in [-1, 1], in units of [0, 1]."""
    return (x - y).square().flatten(1).mean(1) / 4


def likeness(
    maps: Maps | None,
    x: Tensor,
    y: Tensor,
    perceptual_weight: float = 10.0,
    pixel_weight: float = 1.0,
    outside: Tensor | None = None,
) -> Tensor:
    """(B,) perceptual and squared distance of pictures (B, C, H, W).

    Args:
        outside: (B, H, W) bool, where they are compared; the rest is black in both, and counts in the means.
    """
    if outside is not None:
        x, y = (torch.where(outside[:, None], v, -1.0) for v in (x, y))
    return perceptual_weight * perceptual(maps, x, y) + pixel_weight * squared(x, y)


def region_cross_entropy(logits: Tensor, labels: Tensor, region: Tensor) -> Tensor:
    """(B,) mean cross-entropy of logits (B, K, H, W) over each picture's region; 0 for an empty one."""
    found = F.cross_entropy(logits, labels, reduction="none")
    found = torch.where(region, found, 0)
    return found.flatten(1).sum(1) / region.flatten(1).sum(1).clamp(min=1)
