"""`shapenet-vol`: ShapeNet as occupancy networks packed it (Mescheder et al. 2019, 1812.03828)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from gentool.data.cloud_options import ThreePartConfig
from gentool.data.options import Split
from gentool.errors import CorruptError, UserError

if TYPE_CHECKING:
    from gentool.data.clouds import Shapes


class ShapeNetVolConfig(ThreePartConfig):
    """SYNSET/ID/pointcloud.npz with `points` and `normals` (P, 3), and SYNSET/{train,val,test}.lst of ids."""

    name: Literal["shapenet-vol"] = "shapenet-vol"
    """ShapeNet clouds beside watertight meshes, the layout of occupancy networks."""
    path: str
    """The folder with a folder per synset (02691156 is airplane); `classes` chooses among them by name."""

    what: ClassVar[str] = (
        "ShapeNet clouds of 100,000 points, occupancy networks' layout, a class per category"
    )
    origin: ClassVar[str] = "path (ShapeNet of occupancy networks, or of Shape As Points)"

    def shapes(self, split: Split) -> Shapes:
        from gentool.data.cloud_files import (  # here, not above: a recipe is checked without numpy
            StoredShapes,
            by_category,
            read_array,
        )

        part = "train" if split == "train" else self.test_part
        listed = by_category(self.path, self.classes, lambda home: _files(home, part))
        return StoredShapes.of(
            self.path,
            listed,
            lambda file: read_array(file, "points"),
            up=self.up,
            read_normals=lambda file: read_array(file, "normals"),
        )


def _files(home: Path, part: str) -> list[Path]:
    index = home / f"{part}.lst"
    if not index.is_file():
        there = ", ".join(sorted(file.name for file in home.glob("*.lst"))) or "nothing"
        raise UserError(f"has no {part}.lst; there is {there}", str(home))
    files = [
        home / line.strip() / "pointcloud.npz" for line in index.read_text().splitlines() if line.strip()
    ]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise CorruptError(
            f"names {len(missing)} shapes that are not there, such as {missing[0]}", str(index)
        )
    return files
