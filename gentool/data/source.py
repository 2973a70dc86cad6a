"""What a file format gives: raw examples by row, before any choice of rows. No torch here."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from gentool.data.options import ImageConfig
from gentool.data.pictures import fit_array, fitted_size
from gentool.errors import CorruptError, UserError
from gentool.runs.samples import Kind, kind_of


@dataclass(frozen=True)
class DataSpec:
    """What one example is.

    Attributes:
        kind: `image` (uint8), `vector` or `points` (float32).
        shape: (C, H, W), (D,) or (points, 3).
        classes: how many classes; 0 where there are no labels.
        class_names: a name a class.
    """

    kind: Kind
    shape: tuple[int, ...]
    classes: int
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Fault:
    """One bad thing that `gentool data check` found: which file, row or offset, and what is wrong."""

    where: str
    message: str


@dataclass(eq=False)
class Source(ABC):
    """Examples by row.

    Attributes:
        where: the file or folder, for messages.
        spec: what `read` returns a row of.
        labels: (N,) int64, -1 for none; known without decoding a picture.
        notes: conversions made by rule, with counts, e.g. `{"transparency laid over white": 3}`.
    """

    where: str
    spec: DataSpec
    labels: np.ndarray
    notes: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, rows: np.ndarray) -> np.ndarray:
        """(n, C, H, W) uint8 or (n, ...) float32.

        Raises:
            CorruptError: a row cannot be read; names the file or row.
        """

    @abstractmethod
    def digest(self) -> str:
        """sha256 over the content; the same on every machine, wherever the files lie."""

    def faults(self) -> Iterator[Fault]:
        """Audits every row: all faults, not the first alone."""
        for start in range(0, len(self), 256):
            try:
                self.read(np.arange(start, min(start + 256, len(self))))
            except CorruptError as error:
                yield Fault(error.where or self.where, error.message)


class ArraySource(Source):
    """Examples that are all in memory: images (N, H, W, C) uint8, vectors (N, D) or clouds (N, P, 3) float32.

    Args:
        labels: (N,) integers, or None.
        class_names: the classes; by default the numbers up to the largest label.
        options: how `read` fits pictures; None where the set has no such options.

    Raises:
        CorruptError: another layout, NaN, no rows, or a label outside the classes; says which.
        UserError: options for pictures on something else.
    """

    def __init__(
        self,
        where: str,
        array: np.ndarray,
        labels: np.ndarray | None,
        class_names: tuple[str, ...] | None = None,
        options: ImageConfig | None = None,
    ) -> None:
        try:
            kind = kind_of(array)
        except ValueError as error:
            raise CorruptError(str(error), where) from error
        if len(array) == 0:
            raise CorruptError("holds no examples", where)
        if kind != "image" and not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))[0])
            raise CorruptError(f"row {row} holds NaN or infinity", where)
        marks, names = checked_labels(where, labels, len(array), class_names)
        shape = fitted_shape(where, kind, array.shape[1:], options)
        super().__init__(where, DataSpec(kind, shape, len(names), names), marks)
        self.array = array
        self.options = options

    def read(self, rows: np.ndarray) -> np.ndarray:
        return fit_rows(self.array[rows], self.where, self.options)

    def digest(self) -> str:
        total = hashlib.sha256(f"{self.array.dtype.str} {self.array.shape}".encode())
        total.update(np.ascontiguousarray(self.array).data)
        total.update(np.ascontiguousarray(self.labels, "<i8").data)
        return total.hexdigest()


def fitted_shape(
    where: str, kind: Kind, shape: tuple[int, ...], options: ImageConfig | None
) -> tuple[int, ...]:
    """The spec's shape of rows stored as `shape`, images as (H, W, C).

    Raises:
        UserError: size or pad for vectors or clouds.
    """
    if kind == "image":
        height, width, channels = shape
        if options is not None:
            width, height = fitted_size(width, height, options)
        return (channels, height, width)
    if options is not None and (options.size or options.pad):
        raise UserError(f"size and pad are for pictures; these are {kind}s of shape {shape}", where)
    return shape


def fit_rows(rows: np.ndarray, where: str, options: ImageConfig | None) -> np.ndarray:
    """Stored rows -> what `Source.read` returns: images (n, H, W, C) fitted, as (n, C, H, W)."""
    if rows.ndim != 4:
        return rows
    return np.moveaxis(rows if options is None else fit_array(rows, where, options), -1, 1)


def checked_labels(
    where: str, labels: np.ndarray | None, count: int, class_names: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as (count,) int64 (-1 without) and the class names.

    Raises:
        CorruptError: another number of labels, or a label outside the classes; names the first such row.
    """
    if labels is None:
        return np.full(count, -1, np.int64), ()
    marks = np.asarray(labels).astype(np.int64)
    if marks.shape != (count,):
        raise CorruptError(f"{count} examples but labels of shape {marks.shape}", where)
    if class_names is None:
        class_names = tuple(map(str, range(int(marks.max(initial=-1)) + 1)))
    bad = np.flatnonzero((marks < -1) | (marks >= len(class_names)))
    if len(bad):
        row = int(bad[0])
        raise CorruptError(
            f"label {marks[row]} of row {row} is outside 0 to {len(class_names) - 1} ({len(bad)} in all)",
            where,
        )
    return marks, class_names
