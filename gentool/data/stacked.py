"""Triples of MNIST's pictures: the examples of `stacked-mnist`. No torch here."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from gentool.data.arrays import fit_rows, fitted_shape
from gentool.data.choice import shuffled
from gentool.data.source import Source
from gentool.data.spec import DataSpec

if TYPE_CHECKING:
    from gentool.data.options import Split
    from gentool.data.sets.stacked_mnist import StackedMnistConfig

_KEY = 0x737461636B656401


class StackedSource(Source):
    """Triples of MNIST's pictures by row, fixed for ever; each digit stands twice in each channel.

    Row i shows the digits a, b, c as red, green and blue and has the label 100 a + 10 b + c.
    """

    def __init__(self, config: StackedMnistConfig, split: Split) -> None:
        images, digits, where = config.read(split)
        self.triples = np.stack(
            [
                np.concatenate(
                    [shuffled(len(digits), _KEY + channel + 3 * copy) for copy in range(config.copies)]
                )
                for channel in range(3)
            ],
            axis=1,
        )
        labels = digits[self.triples].astype(np.int64) @ np.array([100, 10, 1])
        shape = fitted_shape(where, "image", config.original, config)
        names = config.class_names
        super().__init__(where, DataSpec("image", shape, len(names), names), labels)
        self.images, self.options = images, config

    def read(self, rows: np.ndarray) -> np.ndarray:
        stacked = np.moveaxis(self.images[self.triples[rows]], 1, -1)
        return fit_rows(stacked, self.where, self.options)

    def digest(self) -> str:
        total = hashlib.sha256(np.ascontiguousarray(self.images).data)
        total.update(np.ascontiguousarray(self.triples, "<i8").data)
        total.update(np.ascontiguousarray(self.labels, "<i8").data)
        return total.hexdigest()
