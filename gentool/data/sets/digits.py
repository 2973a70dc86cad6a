"""`digits`: the 8x8 handwritten digits that scikit-learn carries; no download."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from gentool.data.options import ImageConfig, Split

if TYPE_CHECKING:
    from gentool.data.source import Source


class DigitsConfig(ImageConfig):
    """8x8 gray handwritten digits."""

    name: Literal["digits"] = "digits"
    """Handwritten digits bundled with scikit-learn, 1797, 8x8 gray."""
    held_out: Annotated[float, Field(gt=0, lt=1)] | None = 0.2
    """Share kept from training as `test`, the same share of each class, fixed for ever."""

    what: ClassVar[str] = "handwritten digits, 1797, 8x8 gray, 10 classes"
    origin: ClassVar[str] = "bundled with scikit-learn (Alpaydin and Kaynak, UCI); no download"

    def published(self) -> int:
        return 1797

    def source(self, split: Split) -> Source:
        import numpy as np  # here, not above: a recipe is checked without it
        from sklearn.datasets import load_digits

        from gentool.data.arrays import ArraySource

        found = load_digits()
        images = np.rint(found.images * (255 / 16)).astype(np.uint8)  # stored as 0 to 16
        return ArraySource("scikit-learn digits", images[..., None], found.target, tuple("0123456789"), self)
