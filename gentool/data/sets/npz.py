"""`npz`: arrays in numpy's own file; the format that other evaluators read and `gentool sample` writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from gentool.data.options import ImageConfig, Split
from gentool.errors import UserError

if TYPE_CHECKING:
    from gentool.data.source import Source


class NpzConfig(ImageConfig):
    """Examples in an .npz file."""

    name: Literal["npz"] = "npz"
    """Arrays in an .npz file."""
    path: str
    """The .npz: arr_0 (N, H, W, C) uint8, float32 vectors (N, D) or clouds (N, points, 3); arr_1 labels."""

    what: ClassVar[str] = "your arrays: arr_0 (N, H, W, C) uint8 or float32 rows, arr_1 labels"
    origin: ClassVar[str] = "path"

    def source(self, split: Split) -> Source:
        from gentool.data.arrays import ArraySource  # here, not above: a recipe is checked without numpy
        from gentool.runs.samples import read_samples

        if Path(self.path).suffix != ".npz":
            raise UserError("expected an .npz file", self.path)
        samples = read_samples(self.path)
        return ArraySource(self.path, samples.array, samples.labels, options=self)

    def present(self) -> bool:
        return Path(self.path).exists()
