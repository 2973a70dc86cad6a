"""Measures of a bright stroke on a dark ground, by the moments of its ink: exact, so that they judge without error."""

from __future__ import annotations

import torch
from torch import Tensor

from gentool.metrics.strokes_catalog import Measure


def measure(name: Measure, x: Tensor) -> Tensor:
    """(B,) of pictures x (B, C, H, W) in [-1, 1]; values outside are clipped.

    slant: d column / d row upwards, the shear that would set the stroke upright: positive leans right (1: 45 degrees).
    thickness: ink over the radius of gyration of where it is, both in pixels: a stroke's area over its length.
    ink: the mean brightness, in [0, 1].

    An empty picture measures 0.
    """
    ink = (x.double().clamp(-1, 1).mean(1) + 1) / 2
    if name == "ink":
        return ink.mean((1, 2)).float()
    rows, columns = (torch.arange(n, device=x.device, dtype=torch.float64) for n in ink.shape[1:])
    mass = ink.sum((1, 2)).clamp(min=1e-9)
    y = rows[None, :, None] - ((ink * rows[:, None]).sum((1, 2)) / mass)[:, None, None]
    z = columns[None, None, :] - ((ink * columns).sum((1, 2)) / mass)[:, None, None]
    yy, zz, yz = ((ink * m).sum((1, 2)) / mass for m in (y * y, z * z, y * z))
    if name == "slant":
        return torch.where(yy > 1e-9, -yz / yy.clamp(min=1e-9), 0).float()
    return torch.where(yy + zz > 1e-9, mass / (yy + zz).clamp(min=1e-9).sqrt(), 0).float()
