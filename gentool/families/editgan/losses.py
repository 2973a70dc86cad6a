"""Regions of an edit, and losses that hold a picture outside them (Ling et al. 2021, 2111.03186, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def region_of(
    before: Tensor, after: Tensor, edited: Tensor | None = None, widened: int = DILATIONS
) -> Tensor:
    """(B, H, W) bool where an edit may change the picture: where edited classes are, or were, and around.

    Args:
        before, after: label maps (B, H, W).
        edited: (B, K) bool, the classes; None: those of the pixels that differ, where these pixels alone are the
            region (a painted area).
        widened: by so many pixels.
    """
    if edited is None:
        return dilated(before != after, widened)
    found = [torch.gather(edited, 1, labels.flatten(1)).view_as(labels) for labels in (before, after)]
    return dilated(found[0] | found[1], widened)


def edited_classes(before: Tensor, after: Tensor, classes: int) -> Tensor:
    """(B, K) bool: classes that gain or lose a pixel."""
    changed = (before != after).flatten(1)
    found = torch.zeros(len(before), classes, dtype=torch.bool, device=before.device)
    for labels in (before, after):
        hot = F.one_hot(labels.flatten(1), classes).bool()
        found |= (hot & changed[..., None]).any(1)
    return found


def squared(x: Tensor, y: Tensor) -> Tensor:
    """(B,) mean squared error of pictures in [-1, 1], in units of [0, 1]."""
    return (x - y).square().flatten(1).mean(1) / 4


class Likeness:
    """Distance to pictures that stay, perceptual and squared.

    The perceptual one is the mean over maps and places of squared distances of unit feature vectors, in [0, 4]; 0
    without a network. LPIPS (Zhang et al. 2018, 1801.03924, eq. 1) sums over maps, with learnt weights that are small:
    without them the mean comes nearer to its size, by which the published weights of the terms were chosen.

    Args:
        to: (B, C, H, W) in [-1, 1]; its features are taken once.
        outside: (B, H, W) bool, where pictures are compared; the rest is black in both, and counts in the means.
    """

    def __init__(
        self,
        maps: Maps | None,
        to: Tensor,
        perceptual_weight: float = 10.0,
        pixel_weight: float = 1.0,
        outside: Tensor | None = None,
    ) -> None:
        self.maps, self.outside = maps, outside
        self.perceptual_weight, self.pixel_weight = perceptual_weight, pixel_weight
        with torch.no_grad():
            self.to = self._shown(to)
            self.features = self._features(self.to)

    def __call__(self, x: Tensor) -> Tensor:
        """(B,) of pictures (B, C, H, W)."""
        x = self._shown(x)
        found = self.pixel_weight * squared(x, self.to)
        for a, b in zip(self._features(x), self.features):
            far = (a - b).square().sum(1).mean((1, 2))
            found = found + self.perceptual_weight / len(self.features) * far
        return found

    def _shown(self, x: Tensor) -> Tensor:
        return x if self.outside is None else torch.where(self.outside[:, None], x, -1.0)

    def _features(self, x: Tensor) -> list[Tensor]:
        return [] if self.maps is None else [F.normalize(found, dim=1) for found in self.maps(x)]


def noise_correlation(planes: Sequence[Tensor]) -> Tensor:
    """(B,) how much of a picture is hidden in its layers' noise.

    At every scale from a plane's own down to 8 pixels, the squared means of products with its neighbours below and to
    the right, summed.

    White noise of n pixels has about 2/n, a constant plane c 2 c^4 (Karras et al. 2020, 1912.04958, appendix D; scales
    are plain means of 2x2 pixels as in the published code, which the paper doubles).

    Args:
        planes: (B, 1, r, r) each.
    """
    total = planes[0].new_zeros(len(planes[0]))
    for plane in planes:
        while True:
            for dim in (2, 3):
                total = total + (plane * plane.roll(1, dim)).mean((1, 2, 3)).square()
            if plane.shape[-1] <= 8:
                break
            plane = F.avg_pool2d(plane, 2)
    return total


def region_cross_entropy(logits: Tensor, labels: Tensor, region: Tensor) -> Tensor:
    """(B,) mean cross-entropy over each picture's region; 0 for an empty one.

    Args:
        logits: (P, K), of the region's pixels, in the order of `region.nonzero()`.
        labels: (B, H, W) int64.
        region: (B, H, W) bool.
    """
    each = F.cross_entropy(logits, labels[region], reduction="none")
    picture = region.nonzero()[:, 0]
    total = each.new_zeros(len(region)).index_add(0, picture, each)
    return total / region.flatten(1).sum(1).clamp(min=1)
