"""Point clouds as shaded spheres, seen from the front right and a little above; numpy alone.

Orthographic, y up. Each cloud is fitted to its own tile, so that sizes of different clouds cannot be compared.
"""

from __future__ import annotations

import numpy as np
from PIL import ImageColor

from gentool.runs.pictures import COLOURS

SIDE = 192
"""Pixels of a tile."""
AZIMUTH, ELEVATION = np.radians(35), np.radians(20)
LIGHT = np.array([-0.35, 0.65, 0.67])
"""Where light comes from, in the viewer's axes: right, up, towards the eye. About a unit long."""
SMOOTH = 2
"""Each pixel is the mean of SMOOTH^2."""


def viewed(points: np.ndarray) -> np.ndarray:
    """Points (P, 3) in the viewer's axes: right, up, towards the eye."""
    cos, sin = np.cos(AZIMUTH), np.sin(AZIMUTH)
    turned = points @ np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]]).T
    cos, sin = np.cos(ELEVATION), np.sin(ELEVATION)
    return turned @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]).T


def render(points: np.ndarray, colour: str = COLOURS[0], side: int = SIDE) -> np.ndarray:
    """A cloud (P, 3) -> (side, side, 3) uint8: each point a sphere on white, nearer ones in front of others."""
    seen = viewed(points.astype(np.float64))
    low, high = seen.min(0), seen.max(0)
    # Fewer points are larger; the box leaves room for their spheres.
    pixels = SMOOTH * side
    radius = pixels * float(np.clip(0.35 / np.sqrt(len(points)), 0.008, 0.04))
    scale = (pixels - 2 * radius - 2) / max(float((high - low)[:2].max()), 1e-12)
    seen = (seen - (low + high) / 2) * scale

    reach = np.arange(-int(radius), int(radius) + 1)
    x, y = (axis.ravel() for axis in np.meshgrid(reach, reach))
    disc = x**2 + y**2 <= radius**2
    x, y = x[disc], y[disc]
    normals = np.stack([x, y, np.sqrt(radius**2 - x**2 - y**2)], 1) / radius

    column = np.rint(seen[:, :1] + pixels / 2 + x).astype(int).clip(0, pixels - 1)
    row = np.rint(pixels / 2 - seen[:, 1:2] - y).astype(int).clip(0, pixels - 1)
    depth = seen[:, 2:] + radius * normals[:, 2]
    span = max(float(seen[:, 2].max() - seen[:, 2].min()), 1e-12)
    nearness = (seen[:, 2:] - seen[:, 2].min()) / span
    light = 0.35 + 0.65 * (normals @ LIGHT).clip(0)
    shade = (light * (0.7 + 0.3 * nearness)).ravel()

    order = np.argsort(depth.ravel(), kind="stable")
    ink = np.array(ImageColor.getrgb(colour), np.float64)
    page = np.full((pixels, pixels, 3), 255.0)
    # Of several values for one pixel the last stays: the nearest.
    page[row.ravel()[order], column.ravel()[order]] = shade[order, None] * ink
    return page.reshape(side, SMOOTH, side, SMOOTH, 3).mean((1, 3)).round().astype(np.uint8)


def tiles(clouds: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """Clouds (N, P, 3) -> (N, SIDE, SIDE, 3) uint8, a colour for each label."""
    kinds = np.zeros(len(clouds), int) if labels is None else np.asarray(labels)
    return np.stack([render(cloud, COLOURS[int(kind) % len(COLOURS)]) for cloud, kind in zip(clouds, kinds)])
