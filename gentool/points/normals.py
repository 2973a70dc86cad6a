"""Normals of a cloud that has none: planes through neighbours, outwards where the cloud is seen from.

A spanning tree of neighbours (Hoppe et al. 1992), the usual way to agree on what is outside, goes astray on
parts no thicker than points are apart: legs, seats, wings. Those are seen from all sides, so here each point faces
those who see it.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import ConvexHull, cKDTree

NEIGHBOURS = 8
VIEWS = 32
EYE, MIRROR = 4.0, 100.0
"""How far eyes are from the cloud's middle, in its radii; how far the mirror is, in the farthest point's distances."""
LEAST = 16
"""Fewer points than this outline no solid."""
FLAT = 1e-5
"""Clouds thinner than this, in their longest side, are planes."""


def estimated_normals(points: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Unit outward normals (N, 3) of points (N, 3) on the surface of a solid, N >= 4.

    Args:
        neighbours: that a plane is fitted to.

    Raises:
        ValueError: all points lie in one plane.
    """
    points = points.astype(np.float64)
    if np.linalg.svd(points - points.mean(0), compute_uv=False)[2] < FLAT * np.ptp(points, axis=0).max():
        raise ValueError("all points lie in one plane")
    near = cKDTree(points).query(points, min(neighbours + 1, len(points)))[1]
    offsets = points[near] - points[near].mean(1, keepdims=True)
    normals = np.linalg.eigh(offsets.swapaxes(1, 2) @ offsets)[1][:, :, 0]
    towards = towards_eyes(points)
    seen = towards.any(1)
    # who is never seen, in a hollow, faces as the nearest one that is
    towards[~seen] = normals[seen][cKDTree(points[seen]).query(points[~seen])[1]]
    return np.where((normals * towards).sum(1, keepdims=True) < 0, -normals, normals)


def towards_eyes(points: np.ndarray) -> np.ndarray:
    """The sum (N, 3) of the directions of all eyes around the cloud that see each point (N, 3).

    A point is seen when its image in a large sphere around the eye is a corner of the images' hull (Katz et al. 2007,
    Direct visibility of point sets).

    """
    centred = points - points.mean(0)
    total, reach = np.zeros_like(centred), np.linalg.norm(centred, axis=1).max()
    for direction in spread_directions(VIEWS):
        ray = centred - EYE * reach * direction
        away = np.linalg.norm(ray, axis=1, keepdims=True)
        images = ray + 2 * (MIRROR * away.max() - away) * ray / away
        corners = ConvexHull(np.concatenate([images, np.zeros((1, 3))])).vertices
        total[corners[corners < len(points)]] += direction
    return total


def spread_directions(count: int) -> np.ndarray:
    """(count, 3) unit vectors all around, on a spiral of golden angles."""
    place = np.arange(count) + 0.5
    height, angle = 1 - 2 * place / count, np.pi * (1 + 5**0.5) * place
    width = np.sqrt(1 - height**2)
    return np.stack([width * np.cos(angle), height, width * np.sin(angle)], 1)
