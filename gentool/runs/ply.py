"""Point clouds as binary little-endian PLY: x, y, z and the number of the cloud each point belongs to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gentool.errors import CorruptError
from gentool.runs.atomic import atomic_write

_VERTEX = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("cloud", "<i4"), ("label", "<i4")])
_TYPES = {"<f4": "float", "<i4": "int"}


def write_ply(path: Path, clouds: np.ndarray, labels: np.ndarray | None, provenance: dict[str, Any]) -> None:
    """Writes (N, P, 3) float32 as N * P vertices; the label is -1 where there is none."""
    count, points, _ = clouds.shape
    vertices = np.empty(count * points, _VERTEX)
    for axis, name in enumerate("xyz"):
        vertices[name] = clouds[..., axis].ravel()
    vertices["cloud"] = np.repeat(np.arange(count), points)
    vertices["label"] = np.repeat(np.full(count, -1) if labels is None else labels, points)
    lines = ["ply", "format binary_little_endian 1.0", f"comment provenance {json.dumps(provenance)}"]
    lines += [f"element vertex {len(vertices)}"]
    lines += [f"property {_TYPES[_VERTEX[name].str]} {name}" for name in _VERTEX.names or ()]
    with atomic_write(path) as scratch:
        scratch.write_bytes("\n".join([*lines, "end_header", ""]).encode("ascii") + vertices.tobytes())


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Reads back what `write_ply` wrote: clouds (N, P, 3), labels (N,) or None, provenance.

    Raises:
        CorruptError: another PLY dialect, a truncated file, or clouds of unequal size.
    """
    head, end, body = path.read_bytes().partition(b"end_header\n")
    lines = head.decode("ascii", "replace").splitlines()
    names = [line.split()[-1] for line in lines if line.startswith("property")]
    if (
        not end
        or lines[:2] != ["ply", "format binary_little_endian 1.0"]
        or names != list(_VERTEX.names or ())
    ):
        raise CorruptError("expected a PLY file as gentool writes it (x y z cloud label, binary)", str(path))
    try:
        size = next((int(line.split()[-1]) for line in lines if line.startswith("element vertex ")), 0)
        note = next(
            (line for line in lines if line.startswith("comment provenance ")), "comment provenance {}"
        )
        provenance = json.loads(note.split(" ", 2)[2])
    except ValueError as error:
        raise CorruptError(f"a damaged header ({error})", str(path)) from error
    if size == 0 or len(body) != size * _VERTEX.itemsize:
        raise CorruptError(
            f"expected {size} vertices in {size * _VERTEX.itemsize} bytes, found {len(body)}", str(path)
        )
    vertices = np.frombuffer(body, _VERTEX)
    count = int(vertices["cloud"][-1]) + 1
    if (
        count < 1
        or size % count
        or not np.array_equal(vertices["cloud"], np.repeat(np.arange(count), size // count))
    ):
        raise CorruptError("the clouds are not of one size, one after the other", str(path))
    clouds = np.stack([vertices[axis] for axis in "xyz"], -1).reshape(count, -1, 3)
    labels = vertices["label"].reshape(count, -1)[:, 0].astype(np.int64)
    return clouds, None if (labels < 0).all() else labels, provenance
