"""Meshes as shaded surfaces, seen and lit as clouds are (`cloud_pictures`); numpy alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gentool.runs.cloud_pictures import SIDE, SMOOTH, fitted, lit, painted, viewed
from gentool.runs.mesh_files import Mesh
from gentool.runs.pictures import COLOURS

MARGIN = 6
"""Pixels, of the finer grid, that a tile leaves around its mesh."""


def render(mesh: Mesh, colour: str = COLOURS[0], side: int = SIDE) -> np.ndarray:
    """A mesh -> (side, side, 3) uint8: its surface on white, smoothly shaded."""
    normals = np.zeros(mesh.vertices.shape)
    np.add.at(normals, mesh.faces, mesh.area_normals()[:, None])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)
    seen = fitted(viewed(mesh.vertices.astype(np.float64)), SMOOTH * side, MARGIN)
    values = np.concatenate([seen, lit(viewed(normals))[:, None]], 1)[mesh.faces]
    edges = np.linalg.norm(values[:, :, :2] - values[:, [1, 2, 0], :2], axis=2).max(1)
    # Triangles of about one size, filled together: a lattice of points no further apart than a pixel.
    fineness = 2 ** np.ceil(np.log2(edges.clip(1))).astype(int)
    spots = np.concatenate([_filled(values[fineness == n], int(n)) for n in np.unique(fineness)])
    return painted(spots[:, :3], spots[:, 3], colour, side)


def _filled(corners: np.ndarray, parts: int) -> np.ndarray:
    """Values (F, 3, C) at triangles' corners to those on a lattice that divides each edge: (n, C)."""
    i, j = (axis.ravel() for axis in np.meshgrid(np.arange(parts + 1), np.arange(parts + 1)))
    i, j = i[i + j <= parts], j[i + j <= parts]
    weights = np.stack([i, j, parts - i - j], 1) / parts
    return (weights @ corners).reshape(-1, corners.shape[2])


def tiles(meshes: Sequence[Mesh], labels: np.ndarray | None = None) -> np.ndarray:
    """N meshes -> (N, SIDE, SIDE, 3) uint8, a colour for each label."""
    kinds = np.zeros(len(meshes), int) if labels is None else np.asarray(labels)
    return np.stack([render(mesh, COLOURS[int(kind) % len(COLOURS)]) for mesh, kind in zip(meshes, kinds)])
