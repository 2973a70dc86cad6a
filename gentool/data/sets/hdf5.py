"""`hdf5`: rows in an HDF5 file as `gentool data pack` and `gentool sample` write them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from gentool.data.options import ImageConfig, Split

if TYPE_CHECKING:
    from gentool.data.source import Source


class Hdf5Config(ImageConfig):
    """Examples in an HDF5 file."""

    name: Literal["hdf5"] = "hdf5"
    """Rows in an HDF5 file."""
    path: str
    """The .h5: /samples (N, H, W, C) uint8, float32 vectors (N, D) or clouds (N, points, 3); /labels."""

    what: ClassVar[str] = "your packed set: /samples and /labels, checksummed, of any size"
    origin: ClassVar[str] = "path (`gentool data pack` makes one)"

    def source(self, split: Split) -> Source:
        from gentool.data.h5_source import Hdf5Source  # here, not above: a recipe is checked without numpy

        return Hdf5Source(self.path, self)

    def present(self) -> bool:
        return Path(self.path).exists()
