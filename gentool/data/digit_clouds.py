"""Clouds drawn from pictures, point by point. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gentool.data.clouds import Extent, Shapes, random_of
from gentool.errors import CorruptError

if TYPE_CHECKING:
    from gentool.data.options import Split
    from gentool.data.sets.mnist import MnistConfig

POOL = 256
"""Points of the fixed draw that stands for a digit where a shape's own box is asked for."""
BLOCK = 4096
"""Pictures that are floats at once."""
DEPTH = 0.1
"""Half the thickness of a digit, in picture widths."""


@dataclass(eq=False)
class DigitShapes(Shapes):
    """Digit i as a density: a pixel is as likely as it is bright."""

    surface: ClassVar[bool] = True

    pictures: np.ndarray = field(default_factory=lambda: np.empty((0, 28, 28), np.uint8))
    split: str = "train"

    @classmethod
    def of(cls, config: MnistConfig, split: Split, class_names: tuple[str, ...]) -> DigitShapes:
        """All digits of a split; raises as the set `mnist` does."""
        pictures, labels, where = config.read(split)
        names = [f"{where} row {i}" for i in range(len(labels))]
        return cls(where, names, labels.astype(np.int64), class_names, pictures=pictures, split=split)

    def pool(self, i: int) -> np.ndarray:
        return self._points(i, POOL, "pool")

    def extent(self, chosen: np.ndarray) -> Extent:
        """In closed form: tens of thousands of densities are summed up in the time of a few thousand draws."""
        height, width = self.pictures.shape[1:]
        density = np.zeros(height * width)
        for start in range(0, len(chosen), BLOCK):
            rows = chosen[start : start + BLOCK]
            pixels = self.pictures[rows].reshape(len(rows), -1).astype(np.float64)
            sums = pixels.sum(1)
            if not sums.all():
                raise self._empty(int(rows[sums.argmin()]))
            density += (1 / sums) @ pixels / len(chosen)
        table = density.reshape(height, width)
        across, down = table.sum(0), table.sum(1)
        x, y = (np.arange(width) + 0.5) / width - 0.5, 0.5 - (np.arange(height) + 0.5) / height
        inside = (1 / width**2 + 1 / height**2) / 12  # a point lies anywhere in its pixel
        square = across @ x**2 + down @ y**2 + inside + DEPTH**2 / 3
        none = np.array([])
        return Extent(np.array([across @ x, down @ y, 0.0]), float(square) / 3, none, none)

    def content(self) -> Iterator[np.ndarray]:
        """The pictures: a point is a function of its picture's pixels and of the picture's number."""
        yield np.ascontiguousarray(self.pictures)

    def draw(self, i: int, count: int, view: int | None) -> np.ndarray:
        return self._points(i, count, "test" if view is None else f"view {view}")

    def _points(self, i: int, count: int, what: str) -> np.ndarray:
        random = random_of("digit", self.split, i, what)
        height, width = self.pictures[i].shape
        edges = np.cumsum(self.pictures[i].ravel(), dtype=np.float64)
        if edges[-1] == 0:
            raise self._empty(i)
        pixel = np.searchsorted(edges, random.random(count) * edges[-1], side="right")
        jitter = random.random((3, count))
        x = (pixel % width + jitter[0]) / width - 0.5
        y = 0.5 - (pixel // width + jitter[1]) / height
        return np.stack([x, y, DEPTH * (2 * jitter[2] - 1)], 1).astype(np.float32)

    def _empty(self, i: int) -> CorruptError:
        return CorruptError("an empty picture gives no points", self.names[i])
