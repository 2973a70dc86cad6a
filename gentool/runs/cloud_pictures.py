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
    # Fewer points are larger; the box leaves room for their spheres.
    radius = SMOOTH * side * float(np.clip(0.35 / np.sqrt(len(points)), 0.008, 0.04))
    seen = fitted(seen, SMOOTH * side, radius)

    reach = np.arange(-int(radius), int(radius) + 1)
    x, y = (axis.ravel() for axis in np.meshgrid(reach, reach))
    disc = x**2 + y**2 <= radius**2
    x, y = x[disc], y[disc]
    normals = np.stack([x, y, np.sqrt(radius**2 - x**2 - y**2)], 1) / radius

    span = max(float(np.ptp(seen[:, 2])), 1e-12)
    nearness = (seen[:, 2:] - seen[:, 2].min()) / span
    spots = seen[:, None] + np.stack([x, y, radius * normals[:, 2]], 1)
    return painted(spots.reshape(-1, 3), (lit(normals) * (0.7 + 0.3 * nearness)).ravel(), colour, side)


def fitted(seen: np.ndarray, pixels: int, margin: float) -> np.ndarray:
    """Points (P, 3) in the viewer's axes, in pixels about the middle of a square with that margin."""
    low, high = seen.min(0), seen.max(0)
    scale = (pixels - 2 * margin - 2) / max(float((high - low)[:2].max()), 1e-12)
    return (seen - (low + high) / 2) * scale


def lit(normals: np.ndarray) -> np.ndarray:
    """Brightness (P,) of surfaces with these normals (P, 3), in the viewer's axes."""
    return 0.35 + 0.65 * (normals @ LIGHT).clip(0)


def painted(spots: np.ndarray, shade: np.ndarray, colour: str, side: int) -> np.ndarray:
    """Spots (n, 3) of `fitted` pixels with their brightness (n,) on white, the nearest one at each pixel:
    (side, side, 3) uint8."""
    pixels = SMOOTH * side
    column = np.rint(spots[:, 0] + pixels / 2).astype(int).clip(0, pixels - 1)
    row = np.rint(pixels / 2 - spots[:, 1]).astype(int).clip(0, pixels - 1)
    order = np.argsort(spots[:, 2], kind="stable")
    page = np.full((pixels, pixels, 3), 255.0)
    # Of several values for one pixel the last stays: the nearest.
    page[row[order], column[order]] = shade[order, None] * np.array(ImageColor.getrgb(colour), np.float64)
    return page.reshape(side, SMOOTH, side, SMOOTH, 3).mean((1, 3)).round().astype(np.uint8)


def tiles(clouds: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """Clouds (N, P, 3) -> (N, SIDE, SIDE, 3) uint8, a colour for each label."""
    kinds = np.zeros(len(clouds), int) if labels is None else np.asarray(labels)
    return np.stack([render(cloud, COLOURS[int(kind) % len(COLOURS)]) for cloud, kind in zip(clouds, kinds)])
