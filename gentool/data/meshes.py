"""Points drawn from the surfaces of meshes, which trimesh reads. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gentool.data.clouds import Shapes, checked, random_of, upright
from gentool.data.spec import Fault
from gentool.errors import CorruptError, UserError

POOL = 4096
"""Points of the fixed draw that a set's statistics and each shape's box are measured on."""
SHARE = 4
"""A file without faces serves as a cloud when it has at least a quarter as many vertices as points are wanted."""
BARE = "files without faces: their vertices are the points"
OPEN = "meshes that are not closed: their normals are as their faces are wound, outwards or not"


@dataclass(frozen=True)
class Surface:
    """Triangles (F, 3, 3), or bare points (P, 3) where a file has no faces.

    Attributes:
        closed: whether the triangles bound a solid, where that was looked at.
        side: -1 where they are wound clockwise as seen from outside of it.
    """

    corners: np.ndarray
    areas: np.ndarray
    closed: bool = True
    side: int = 1

    def oriented(self, count: int, random: np.random.Generator) -> np.ndarray:
        """(count, 6) float32: the points of `draw`, each with the unit normal of its triangle, outwards if closed."""
        points, face = on_triangles(self.corners, self.areas, count, random)
        a, b, c = self.corners[face].swapaxes(0, 1)
        normals = self.side * np.cross(b - a, c - a)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return np.concatenate([points, normals], 1).astype(np.float32)

    def draw(self, count: int, random: np.random.Generator) -> np.ndarray:
        """(count, 3) float32 points, uniform by area."""
        if self.corners.ndim == 2:
            order = random.permutation(len(self.corners))
            more = random.integers(0, len(order), max(0, count - len(order)))
            return self.corners[np.concatenate([order, more])[:count]].astype(np.float32)
        return on_triangles(self.corners, self.areas, count, random)[0].astype(np.float32)


def triangle_areas(corners: np.ndarray) -> np.ndarray:
    """(F, 3, 3) -> (F,)."""
    a, b, c = corners.swapaxes(0, 1)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def on_triangles(
    corners: np.ndarray, areas: np.ndarray, count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(count, 3) points uniform by area on triangles (F, 3, 3), and the triangle of each (count,)."""
    edges = np.cumsum(areas)
    face = np.searchsorted(edges, random.random(count) * edges[-1], side="right").clip(max=len(areas) - 1)
    # The square root makes barycentric coordinates uniform over the triangle.
    root, share = np.sqrt(random.random((count, 1))), random.random((count, 1))
    a, b, c = corners[face].swapaxes(0, 1)
    return (1 - root) * a + root * (1 - share) * b + root * share * c, face


def read_mesh(path: Path, points: int, normals: bool = False) -> Surface:
    """The surface of a mesh file; its vertices where it has no faces but enough of them for `points`.

    Args:
        normals: whether they will be asked for: then the surface must have faces, and whether it is closed matters.

    Raises:
        UserError: trimesh is not installed.
        CorruptError: it cannot be read, is empty, has NaN or infinity, or neither area nor extent.
    """
    where = str(path)
    try:
        import trimesh
    except ImportError:
        raise UserError("reading meshes needs trimesh: install gentool[mesh]", where) from None
    try:
        # Textures and materials are skipped: a missing .mtl or picture is no fault of the shape.
        mesh: Any = trimesh.load(path, force="mesh", process=False, skip_materials=True)
    except Exception as error:  # whatever the readers of four formats raise on damaged files
        raise CorruptError(f"cannot be read as a mesh ({type(error).__name__}: {error})", where) from error
    vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
    if len(vertices) == 0:
        raise CorruptError("has no vertices", where)
    if len(faces) == 0:
        if normals:
            raise CorruptError("has no faces, and so no normals", where)
        if len(vertices) < points / SHARE:
            raise CorruptError(
                f"has no faces, and {len(vertices)} vertices are too few for {points} points", where
            )
        return Surface(checked(vertices, where).astype(np.float64), np.ones(len(vertices)))
    checked(vertices[np.unique(faces)], where)
    corners = vertices[faces]
    areas = triangle_areas(corners)
    if not areas.sum() > 0:
        raise CorruptError("its faces have no area", where)
    if not normals:
        return Surface(corners, areas)
    # vertices at one place are merged: .stl repeats them for every face
    solid = trimesh.Trimesh(vertices, faces, process=True)
    closed = bool(solid.is_watertight and solid.is_winding_consistent)
    return Surface(corners, areas, closed, -1 if closed and solid.volume < 0 else 1)


@dataclass(eq=False)
class MeshShapes(Shapes):
    """Meshes read once, at the start: those that cannot be read are left out and named."""

    surface: ClassVar[bool] = True

    surfaces: list[Surface] = field(default_factory=list)
    up: str = "y"

    @classmethod
    def of(
        cls,
        where: str,
        listed: tuple[Sequence[tuple[Path, int]], tuple[str, ...]],
        points: int,
        up: str,
        normals: bool = False,
    ) -> MeshShapes:
        """From (file, label) pairs and the class names.

        Raises:
            CorruptError: none of the files can be read.
        """
        files, class_names = listed
        names, labels, surfaces, skipped, bare = [], [], [], [], 0
        for file, label in files:
            try:
                surface = read_mesh(file, points, normals)
            except CorruptError as error:
                skipped.append(Fault(error.where or str(file), error.message))
                continue
            bare += surface.corners.ndim == 2
            names.append(str(file))
            labels.append(label)
            surfaces.append(surface)
        if files and not surfaces:
            raise CorruptError(
                f"none of {len(files)} meshes can be used: {skipped[0].message}", skipped[0].where
            )
        gaping = sum(not surface.closed for surface in surfaces)
        notes = {what: count for what, count in ((BARE, bare), (OPEN, gaping)) if count}
        marks = np.array(labels, np.int64)
        return cls(where, names, marks, class_names, notes, tuple(skipped), surfaces, up)

    def pool(self, i: int) -> np.ndarray:
        return self._draw(i, POOL, "pool")

    def draw(self, i: int, count: int, view: int | None) -> np.ndarray:
        return self._draw(i, count, _named(view))

    def _draw(self, i: int, count: int, what: str) -> np.ndarray:
        return upright(self.surfaces[i].draw(count, self._random(i, what)), self.up)

    @property
    def has_normals(self) -> bool:
        return all(surface.corners.ndim == 3 for surface in self.surfaces)

    def oriented(self, i: int, count: int, view: int | None) -> np.ndarray:
        drawn = self.surfaces[i].oriented(count, self._random(i, _named(view)))
        return np.concatenate([upright(drawn[:, :3], self.up), upright(drawn[:, 3:], self.up)], 1)

    def _random(self, i: int, what: str) -> np.random.Generator:
        return random_of(what, Path(self.names[i]).name)


def _named(view: int | None) -> str:
    return "test" if view is None else f"view {view}"
