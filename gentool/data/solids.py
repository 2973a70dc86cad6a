"""Solids made of convex parts, and points on their outer surface. No torch here.

Every part is the convex hull of a few points, so whether a point lies inside another part is an exact test against
half-spaces, and no point of a cloud is hidden inside the solid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull

from gentool.data.meshes import on_triangles, triangle_areas

DEPTH = 1e-4
"""Points deeper than this inside another part are rejected; less is touching."""


@dataclass(frozen=True)
class Solid:
    """The union of convex parts.

    Attributes:
        corners: (F, 3, 3) triangles of all parts' surfaces.
        part: (F,) the part of each triangle. normals: (F, 3) of unit length, outwards.
        planes: (E, 4) outward normals and offsets, n x + d <= 0 inside, part after part.
        starts: (parts,) the first plane of each part.
    """

    corners: np.ndarray
    part: np.ndarray
    normals: np.ndarray
    planes: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[np.ndarray]) -> Solid:
        """The union of the convex hulls of point sets (n, 3)."""
        hulls = [ConvexHull(points) for points in parts]
        planes = [np.unique(hull.equations.round(12), axis=0) for hull in hulls]
        counts = [len(hull.simplices) for hull in hulls]
        return cls(
            np.concatenate([hull.points[hull.simplices] for hull in hulls]),
            np.repeat(np.arange(len(hulls)), counts),
            np.concatenate([hull.equations[:, :3] for hull in hulls]),
            np.concatenate(planes),
            np.cumsum([0, *(len(p) for p in planes)])[:-1],
        )

    def depth(self, points: np.ndarray) -> np.ndarray:
        """(n, parts): the distance of points (n, 3) to the nearest plane of each part, positive inside it."""
        heights = points @ self.planes[:, :3].T + self.planes[:, 3]
        return -np.maximum.reduceat(heights, self.starts, axis=1)

    def draw(self, count: int, random: np.random.Generator) -> np.ndarray:
        """(count, 3) float32 points, uniform by area on the outer surface."""
        return self.oriented(count, random)[:, :3]

    def oriented(self, count: int, random: np.random.Generator) -> np.ndarray:
        """(count, 6) float32: such points, and the unit outward normal at each."""
        areas = triangle_areas(self.corners)
        kept: list[np.ndarray] = []
        while sum(map(len, kept)) < count:
            points, face = on_triangles(self.corners, areas, count + count // 2 + 32, random)
            depth = self.depth(points)
            depth[np.arange(len(points)), self.part[face]] = 0  # a point is on its own part, not inside it
            outside = depth.max(1) <= DEPTH
            kept.append(np.concatenate([points, self.normals[face]], 1)[outside])
        return np.concatenate(kept)[:count].astype(np.float32)


def box(centre: Sequence[float], size: Sequence[float]) -> np.ndarray:
    """The 8 corners of an upright box."""
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
    return np.asarray(centre) + signs * np.asarray(size) / 2


def frustum(
    start: Sequence[float], end: Sequence[float], radius: float, end_radius: float, sides: int = 12
) -> np.ndarray:
    """Two regular polygons about the axis from `start` to `end`, square to it: (2 sides, 3)."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    axis = (b - a) / np.linalg.norm(b - a)
    # Any direction that is not the axis's own spans the plane of the polygon.
    other = np.eye(3)[np.argmin(np.abs(axis))]
    u = np.cross(axis, other)
    u /= np.linalg.norm(u)
    angles = 2 * np.pi * (np.arange(sides) + 0.5) / sides
    ring = np.cos(angles)[:, None] * u + np.sin(angles)[:, None] * np.cross(axis, u)
    return np.concatenate([a + radius * ring, b + end_radius * ring])


def beam(start: Sequence[float], end: Sequence[float], width: float) -> np.ndarray:
    """A bar of square section."""
    return frustum(start, end, width / np.sqrt(2), width / np.sqrt(2), 4)


def mirrored(part: np.ndarray, axis: int) -> np.ndarray:
    """The part on the other side of the plane through the origin, square to `axis`."""
    flip = np.ones(3)
    flip[axis] = -1
    return part * flip
