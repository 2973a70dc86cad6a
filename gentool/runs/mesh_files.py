"""Meshes as files that every viewer opens: binary PLY and OBJ, one shape a file. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from gentool.errors import UserError
from gentool.runs.atomic import atomic_write

SUFFIXES = (".ply", ".obj")


class Mesh(NamedTuple):
    """Triangles, seen counter-clockwise from outside.

    Attributes:
        vertices: (V, 3) float32. faces: (F, 3) int64, rows of `vertices`.
    """

    vertices: np.ndarray
    faces: np.ndarray

    @property
    def corners(self) -> np.ndarray:
        """(F, 3, 3) the triangles' corners, float64."""
        return self.vertices.astype(np.float64)[self.faces]

    def area_normals(self) -> np.ndarray:
        """(F, 3) outward normals as long as their triangles are large."""
        a, b, c = self.corners.swapaxes(0, 1)
        return np.cross(b - a, c - a) / 2

    def volume(self) -> float:
        """Of the solid, where the mesh is closed: a third of the flux of x through its surface."""
        return float((self.corners.mean(1) * self.area_normals()).sum() / 3)


def write_mesh(path: Path, mesh: Mesh, comment: str = "") -> None:
    """Writes one mesh atomically, by the suffix of its name.

    Args:
        comment: a line that the file carries, in ASCII.

    Raises:
        UserError: a suffix other than .ply and .obj.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"cannot write a mesh as {suffix or 'that'}; use {' or '.join(SUFFIXES)}", str(path))
    content = _ply(mesh, comment) if suffix == ".ply" else _obj(mesh, comment)
    with atomic_write(path) as scratch:
        scratch.write_bytes(content)


def _ply(mesh: Mesh, comment: str) -> bytes:
    faces = np.empty(len(mesh.faces), np.dtype([("count", "u1"), ("vertices", "<i4", 3)]))
    faces["count"], faces["vertices"] = 3, mesh.faces
    head = (
        "ply\nformat binary_little_endian 1.0\n"
        + (f"comment {comment}\n" if comment else "")
        + f"element vertex {len(mesh.vertices)}\n"
        + "property float x\nproperty float y\nproperty float z\n"
        + f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    return head.encode("ascii") + mesh.vertices.astype("<f4").tobytes() + faces.tobytes()


def _obj(mesh: Mesh, comment: str) -> bytes:
    lines = [f"# {comment}"] if comment else []
    lines += [f"v {x:.8g} {y:.8g} {z:.8g}" for x, y, z in mesh.vertices.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (mesh.faces + 1).tolist()]  # .obj counts from 1
    return ("\n".join(lines) + "\n").encode("ascii")
