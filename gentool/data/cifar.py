"""CIFAR's binary batches: records of one label byte and 3 planes of 32x32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gentool.data.arrays import ArraySource
from gentool.data.options import ImageConfig
from gentool.errors import CorruptError

_RECORD = 1 + 3 * 32 * 32


def read_records(files: Sequence[Path], classes: tuple[str, ...], options: ImageConfig) -> ArraySource:
    """The records of all files, in their order.

    Raises:
        CorruptError: a file is missing or truncated, or a label is outside the classes; names it.
    """
    batches = []
    for path in files:
        if not path.is_file():
            raise CorruptError(f"lacks {path.name}", str(path.parent))
        data = np.fromfile(path, np.uint8)
        if len(data) == 0 or len(data) % _RECORD:
            raise CorruptError(
                f"{len(data)} bytes are not records of {_RECORD}; the file is truncated", str(path)
            )
        records = data.reshape(-1, _RECORD)
        bad = np.flatnonzero(records[:, 0] >= len(classes))
        if len(bad):
            raise CorruptError(
                f"offset {bad[0] * _RECORD}: label {records[bad[0], 0]} is outside 0 to {len(classes) - 1}",
                str(path),
            )
        batches.append(records)
    records = np.concatenate(batches)
    images = np.moveaxis(records[:, 1:].reshape(-1, 3, 32, 32), 1, -1)
    return ArraySource(str(files[0].parent), images, records[:, 0], classes, options)
