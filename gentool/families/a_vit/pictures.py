"""Which tokens lived how long, as a sheet of pictures."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gentool.data import to_uint8
from gentool.training.findings import Picture

EACH = 8
"""Pictures of each kind: those of the least, of middling and of the greatest mean depth."""
SIDE = 64
"""Least side of a picture on the sheet, in pixels."""
GAP = 4
COLORS = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
"""From shallow to deep: inferno, at its quarters."""


def depth_maps(x: Tensor, depth: Tensor, grid: tuple[int, int], blocks: int) -> Picture:
    """Pictures (N, C, H, W) in [-1, 1] and below each the blocks that its patches (N, rows * columns) went through."""
    order = depth.double().mean(1).argsort(stable=True)
    each = min(EACH, len(x))
    starts = (0, (len(x) - each) // 2, len(x) - each)
    scale = max(1, math.ceil(SIDE / min(x.shape[2:])))
    rows = []
    for start in starts:
        chosen = order[start : start + each]
        shown = to_uint8(x[chosen]).cpu()
        shown = shown.expand(-1, 3, -1, -1) if shown.shape[1] == 1 else shown
        shown = enlarged(shown, scale)
        levels = (depth[chosen].cpu() - 1) / max(1, blocks - 1)
        colors = colored(levels.float()).unflatten(2, grid)
        maps = F.interpolate(colors, shown.shape[2:], mode="nearest").round().to(torch.uint8)
        rows += [in_a_row(shown), in_a_row(maps)]
    width = rows[0].shape[1]
    space = np.full((GAP, width, 3), 128, np.uint8)
    sheet = np.concatenate([part for row in rows for part in (row, space)][:-1])
    caption = (
        f"pictures of the least, of middling and of the greatest depth, and below each how many of {blocks} blocks its "
        "patches went through: 1 is black, all are yellow"
    )
    return Picture("depth-map", sheet, caption)


def enlarged(x: Tensor, scale: int) -> Tensor:
    return x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def colored(level: Tensor) -> Tensor:
    """Levels (N, P) in [0, 1] to colours (N, 3, P) in 0 .. 255, between neighbours of `COLORS` linearly."""
    anchors = torch.tensor(COLORS, dtype=torch.float32)
    at = level.clamp(0, 1) * (len(COLORS) - 1)
    low = at.floor().long().clamp(max=len(COLORS) - 2)
    part = (at - low)[..., None]
    return ((1 - part) * anchors[low] + part * anchors[low + 1]).movedim(2, 1)


def in_a_row(x: Tensor) -> np.ndarray:
    """uint8 (N, 3, H, W) side by side, as (H, W', 3)."""
    spaced = F.pad(x, (0, GAP), value=128)
    return torch.cat(list(spaced), 2).permute(1, 2, 0).numpy()
