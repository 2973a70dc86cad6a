"""Any set into one HDF5 file: decoded once, checksummed, read at random without decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gentool.data.dataset import BLOCK, DataSet
from gentool.errors import UserError
from gentool.runs.atomic import check_writable
from gentool.runs.h5 import write_rows


def pack(dataset: DataSet, path: str | Path) -> Path:
    """Writes all examples as /samples, images as (N, H, W, C), and /labels where there are any; atomically.

    Raises:
        UserError: the name does not end in .h5 or .hdf5, or nothing can be written there.
        CorruptError: an example cannot be read; nothing is written then.
        GentoolError: the disk refuses.
    """
    path = Path(path)
    if path.suffix.lower() not in (".h5", ".hdf5"):
        raise UserError("expected a name ending in .h5", str(path))
    check_writable(path.parent)
    spec = dataset.spec
    note: dict[str, Any] = {
        "class_names": list(spec.class_names),
        "source_fingerprint": dataset.fingerprint,
    }
    if spec.frame is not None:
        note["frame"] = asdict(spec.frame)
    labels = dataset.labels if spec.classes else None
    write_rows(path, _blocks(dataset), len(dataset), labels, note)
    return path


def _blocks(dataset: DataSet) -> Iterator[np.ndarray]:
    for start in range(0, len(dataset), BLOCK):
        # From the source: a set that is packed need not fit in memory, nor stay there.
        x = dataset.source.read(dataset.rows[start : start + BLOCK])
        yield np.moveaxis(x, 1, -1) if dataset.spec.kind == "image" else x
