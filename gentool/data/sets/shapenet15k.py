"""`shapenet15k`: ShapeNet as PointFlow packed it, 15,000 surface points a shape (Yang et al. 2019, 1906.12320)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from gentool.data.cloud_options import ThreePartConfig
from gentool.data.options import Split
from gentool.errors import UserError

if TYPE_CHECKING:
    from gentool.data.clouds import Shapes


class ShapeNet15kConfig(ThreePartConfig):
    """SYNSET/{train,val,test}/ID.npy, each (15000, 3).

    Training draws among the first 10,000 points of a shape; a test cloud is its first points as stored; the
    statistics of `global` are over all points of the training shapes.
    """

    name: Literal["shapenet15k"] = "shapenet15k"
    """ShapeNet clouds in PointFlow's layout."""
    path: str
    """The folder with a folder per synset (02691156 is airplane); `classes` chooses among them by name."""

    what: ClassVar[str] = "ShapeNet clouds of 15,000 points, PointFlow's layout, a class per category"
    origin: ClassVar[str] = "path (ShapeNetCore.v2.PC15k)"

    def shapes(self, split: Split) -> Shapes:
        from gentool.data.cloud_files import (  # here, not above: a recipe is checked without numpy
            StoredShapes,
            by_category,
            read_array,
        )

        part = "train" if split == "train" else self.test_part
        listed = by_category(self.path, self.classes, lambda home: _files(home, part))
        return StoredShapes.of(self.path, listed, read_array, up=self.up, training=10_000)


def _files(home: Path, part: str) -> list[Path]:
    if not (home / part).is_dir():
        there = ", ".join(sorted(sub.name for sub in home.iterdir() if sub.is_dir())) or "nothing"
        raise UserError(f"has no folder {part}; there is {there}", str(home))
    return sorted((home / part).glob("*.npy"))
