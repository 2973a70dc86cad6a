"""Rows of an HDF5 file, read when they are asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gentool.data.arrays import checked_labels, fit_rows, fitted_shape
from gentool.data.options import ImageConfig
from gentool.data.source import Source
from gentool.data.spec import DataSpec, Fault, Frame
from gentool.errors import CorruptError
from gentool.runs import h5
from gentool.runs.samples import kind_of

if TYPE_CHECKING:
    import h5py

BLOCK = 1024


class Hdf5Source(Source):
    """Opens the file anew in every process that reads: HDF5 handles do not survive a fork."""

    def __init__(self, path: str, options: ImageConfig) -> None:
        self.path, self.options = path, options
        self._file: h5py.File | None = None
        self._pid = 0
        data, marks = self._samples(), h5.dataset(self._open(), "labels")
        try:
            kind = kind_of(np.empty((1, *data.shape[1:]), data.dtype))
        except ValueError as error:
            raise CorruptError(str(error), f"{path}:/samples") from error
        if len(data) == 0:
            raise CorruptError("holds no examples", f"{path}:/samples")
        with h5.plain_faults(f"{path}:/labels"):
            stored = None if marks is None else marks[()]
        noted = h5.attributes(self._open())
        named = noted.get("class_names")
        names = tuple(map(str, named)) if isinstance(named, list) else None
        labels, class_names = checked_labels(f"{path}:/labels", stored, len(data), names)
        shape = fitted_shape(path, kind, tuple(data.shape[1:]), options)
        try:
            frame = Frame.read(noted.get("frame"))
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"a damaged attribute ({error!r})", f"{path}: frame") from error
        super().__init__(path, DataSpec(kind, shape, len(class_names), class_names, frame), labels)

    def _open(self) -> h5py.File:
        if self._file is None or self._pid != os.getpid():
            self._file, self._pid = h5.open_rows(self.path), os.getpid()
        return self._file

    def _samples(self) -> h5py.Dataset:
        data = h5.dataset(self._open(), "samples")
        if data is None:
            raise CorruptError("has no /samples", self.path)
        return data

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None}

    def _rows(self, rows: np.ndarray) -> np.ndarray:
        found = h5.read_rows(self._samples(), rows)
        if found.dtype != np.uint8 and not np.isfinite(found).all():
            bad = rows[~np.isfinite(found.reshape(len(rows), -1)).all(1)]
            raise CorruptError(f"row {bad[0]} holds NaN or infinity", f"{self.path}:/samples")
        return found

    def read(self, rows: np.ndarray) -> np.ndarray:
        return fit_rows(self._rows(rows), self.path, self.options)

    def digest(self) -> str:
        total = hashlib.sha256(f"{self._samples().dtype.str} {self._samples().shape}".encode())
        for start in range(0, len(self), BLOCK):
            total.update(
                np.ascontiguousarray(self._rows(np.arange(start, min(start + BLOCK, len(self))))).data
            )
        total.update(np.ascontiguousarray(self.labels, "<i8").data)
        return total.hexdigest()

    def faults(self) -> Iterator[Fault]:
        """Reads chunk by chunk, so that each damaged chunk is named."""
        data = self._samples()
        step = data.chunks[0] if data.chunks else BLOCK
        if not data.fletcher32:
            yield Fault(
                f"{self.path}:/samples", "has no checksums; pack it again to be able to notice changed bytes"
            )
        for start in range(0, len(self), step):
            try:
                self._rows(np.arange(start, min(start + step, len(self))))
            except CorruptError as error:
                yield Fault(error.where or self.path, error.message)
