"""HDF5 files of rows: `/samples` (N, ...) and `/labels` (N,), chunked, with Fletcher-32 checksums.

Without the checksum HDF5 reads a flipped byte back silently. Links to other files, virtual and external
data sets are refused: a data file must not make us open a path of its author's choosing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gentool.errors import CorruptError, UserError
from gentool.runs.atomic import atomic_write

if TYPE_CHECKING:
    import h5py

CHUNK_BYTES = 1 << 16
"""About this much is read at once: small enough for random rows, large enough for little overhead."""


@contextmanager
def plain_faults(where: str) -> Iterator[None]:
    """Turns what h5py raises on damaged data into a `CorruptError` that names the file and data set."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        text = str(error).lower()
        if "unable to lock" in text or "temporarily unavailable" in text:
            reason = "it is open for writing in another process; wait until that has finished"
        elif "truncated" in text:
            reason = "the file is truncated; copy or make it again"
        elif "signature" in text:
            reason = "this is not an HDF5 file, or its first bytes are damaged"
        elif "fletcher" in text or "checksum" in text or "filter returned failure" in text:
            reason = "a checksum does not agree: bytes of the file have changed"
        else:
            reason = f"cannot be read ({str(error).splitlines()[0]})"
        raise CorruptError(reason, where) from error


def write_rows(
    path: str | Path,
    blocks: Iterable[np.ndarray],
    count: int,
    labels: np.ndarray | None,
    attributes: Mapping[str, Any],
) -> None:
    """Writes `count` rows, given in blocks (n, ...) of one row shape and dtype, atomically.

    Args:
        labels: (count,) integers, or None for no `/labels`.
        attributes: kept on the file; numbers and text as they are, everything else as JSON text.

    Raises:
        GentoolError: the disk is full or may not be written.
        ValueError: the blocks do not hold `count` rows.
    """
    import h5py

    with atomic_write(path) as scratch, _Sink(scratch) as sink:
        # HDF5 1.10 checksums the chunk index too, and takes attributes above 64 KiB (a long recipe).
        with h5py.File(sink, "w", libver=("v110", "v110")) as file:
            done = 0
            for block in blocks:
                if done == 0:
                    rows = max(1, min(count, CHUNK_BYTES // max(1, block[0].nbytes)))
                    shape, chunks = (count, *block.shape[1:]), (rows, *block.shape[1:])
                    samples = file.create_dataset(
                        "samples", shape, block.dtype, chunks=chunks, fletcher32=True
                    )
                samples[done : done + len(block)] = block
                done += len(block)
                if sink.failure:
                    break
            if labels is not None:
                whole = np.asarray(labels, np.int64)
                file.create_dataset("labels", data=whole, chunks=(min(count, 8192),), fletcher32=True)
            for key, value in attributes.items():
                plain = isinstance(value, str | int | float)
                file.attrs[key] = value if plain else json.dumps(value, ensure_ascii=False)
        if sink.failure:
            raise sink.failure
        if done != count:
            raise ValueError(f"{done} rows came, {count} were announced")


class _Sink(io.FileIO):
    """The file that HDF5 writes into. A failure is kept in `failure` and hidden from HDF5.

    A library that sees its file fail crashes the process when it closes the file; this way it closes in peace
    and the failure is raised after that.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while len(rest) and self.failure is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self.failure = error
        return size

    def truncate(self, size: int | None = None, /) -> int:
        if self.failure is None:
            try:
                return super().truncate(size)
            except OSError as error:
                self.failure = error
        return size or 0


def open_rows(path: str | Path) -> h5py.File:
    """Opens a file for reading.

    Raises:
        UserError: there is no such file.
        CorruptError: not HDF5, truncated, or open for writing elsewhere.
    """
    import h5py

    if not Path(path).is_file():
        raise UserError(
            "no such file; expected an HDF5 file with /samples (`gentool data pack` writes one)", str(path)
        )
    with plain_faults(str(path)):
        return h5py.File(path, "r")


def dataset(file: h5py.File, name: str) -> h5py.Dataset | None:
    """The data set `name` stored in this very file; None when there is none.

    Raises:
        CorruptError: it is a link, virtual, external, or a group.
    """
    import h5py

    where = f"{file.filename}:/{name}"
    with plain_faults(where):
        link = file.get(name, getlink=True)
        if link is None:
            return None
        found = file.get(name) if isinstance(link, h5py.HardLink) else None
        if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
            raise CorruptError(
                "expected a plain data set; links, virtual and external data are refused", where
            )
        return found


def read_rows(data: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
    """`data[rows]` for rows in any order, repeats allowed: one read for each run of neighbours.

    Raises:
        CorruptError: a checksum does not agree; names the rows.
    """
    unique, back = np.unique(np.asarray(rows, np.int64), return_inverse=True)
    out = np.empty((len(unique), *data.shape[1:]), data.dtype)
    for run in np.split(np.arange(len(unique)), np.flatnonzero(np.diff(unique) != 1) + 1):
        if len(run):
            first, last = int(unique[run[0]]), int(unique[run[-1]])
            with plain_faults(f"{data.file.filename}:{data.name} rows {first} to {last}"):
                data.read_direct(out, np.s_[first : last + 1], np.s_[int(run[0]) : int(run[-1]) + 1])
    return out[back]


def attributes(file: h5py.File) -> dict[str, Any]:
    """The file's attributes as Python values; JSON text of an object, array or null decoded."""
    with plain_faults(f"{file.filename}: attributes"):
        return {key: _plain(value) for key, value in file.attrs.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, str) and (value[:1] in "{[" or value == "null"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
