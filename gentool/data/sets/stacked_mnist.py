"""Stacked MNIST: three MNIST digits as the channels of a picture, 1000 classes (Metz et al. 2017; PacGAN's use)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gentool.data.options import Split
from gentool.data.sets.mnist import MnistConfig

if TYPE_CHECKING:
    from gentool.data.source import Source


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

    copies: ClassVar[int] = 2
    """How often each digit stands in each channel."""

    def published(self) -> int:
        return self.copies * super().published()

    def source(self, split: Split) -> Source:
        from gentool.data.stacked import StackedSource  # here, not above: a recipe is checked without numpy

        return StackedSource(self, split)
