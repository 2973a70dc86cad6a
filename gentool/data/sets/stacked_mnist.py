"""Stacked MNIST: three MNIST digits as the channels of a picture, 1000 classes (Metz et al. 2017; PacGAN's use)."""

from __future__ import annotations

import hashlib
from typing import ClassVar, Literal

import numpy as np

from gentool.data.choice import shuffled
from gentool.data.options import Split
from gentool.data.sets.mnist import MnistConfig
from gentool.data.source import DataSpec, Source, fit_rows, fitted_shape

COPIES = 2
"""How often each digit is used in each channel."""
_KEY = 0x737461636B656401


class StackedMnistConfig(MnistConfig):
    """28x28 colour pictures of three digits, red, green and blue, read as the number 000 to 999."""

    name: Literal["stacked-mnist"] = "stacked-mnist"  # type: ignore[assignment]
    """Three handwritten digits as red, green and blue, 120000 + 20000, 28x28."""

    what: ClassVar[str] = (
        "three handwritten digits as red, green and blue, 120000 + 20000, 28x28, 1000 classes"
    )
    origin: ClassVar[str] = "MNIST, stacked here; `gentool data fetch stacked-mnist`, or the files of mnist"
    original: ClassVar[tuple[int, int, int]] = (28, 28, 3)
    aliases: ClassVar[tuple[str, ...]] = ("mnist", *MnistConfig.aliases)
    class_names: ClassVar[tuple[str, ...]] = tuple(f"{number:03}" for number in range(1000))

    def published(self) -> int:
        return COPIES * super().published()

    def source(self, split: Split) -> Source:
        return StackedSource(self, split)


class StackedSource(Source):
    """Triples of MNIST's pictures by row, fixed for ever; each digit stands twice in each channel.

    Row i shows the digits a, b, c as red, green and blue and has the label 100 a + 10 b + c.
    """

    def __init__(self, config: StackedMnistConfig, split: Split) -> None:
        images, digits, where = config.read(split)
        self.triples = np.stack(
            [
                np.concatenate([shuffled(len(digits), _KEY + channel + 3 * copy) for copy in range(COPIES)])
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
