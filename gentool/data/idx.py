"""IDX files of bytes, plain or gzip: magic `00 00 08 n`, n big-endian sizes, then the bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from gentool.errors import CorruptError


def read_idx(path: Path, rank: int) -> np.ndarray:
    """(N, ...) uint8 of the given rank. Never unpacks more than the header promises.

    Raises:
        CorruptError: another magic number or rank, too few or too many bytes, or a damaged gzip stream.
    """
    where = str(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4)
            if head != bytes((0, 0, 8, rank)):
                raise CorruptError(
                    f"offset 0: expected the magic number 00 00 08 {rank:02x} (IDX bytes of rank {rank}), "
                    f"found {head.hex(' ') or 'nothing'}",
                    where,
                )
            sizes_read = file.read(4 * rank)
            if len(sizes_read) != 4 * rank:
                raise CorruptError("ends inside its header", where)
            sizes = struct.unpack(f">{rank}I", sizes_read)
            want = math.prod(sizes)
            if want > 1 << 34:
                raise CorruptError(f"offset 4: promises {want} bytes {sizes}; refused", where)
            data = file.read(want + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptError(f"a damaged or truncated file ({error})", where) from error
    if len(data) != want:
        found = f"ends at offset {len(data) + 4 + 4 * rank}" if len(data) < want else "has more bytes"
        raise CorruptError(f"{found}; its header promises {sizes}", where)
    return np.frombuffer(data, np.uint8).reshape(sizes)
