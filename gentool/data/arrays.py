"""Examples that lie in arrays, and what every source does with labels and the shapes of rows. No torch here."""

from __future__ import annotations

import hashlib

import numpy as np

from gentool.data.options import ImageConfig
from gentool.data.pictures import fit_array
from gentool.data.source import Source
from gentool.data.spec import DataSpec
from gentool.errors import CorruptError, UserError
from gentool.runs.samples import Kind, kind_of


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
            width, height = options.fitted_size(width, height)
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
