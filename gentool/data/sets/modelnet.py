"""`modelnet`: Princeton's ModelNet10/40, as folders of .off meshes or as clouds in .h5 (Wu et al. 2015)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from gentool.data.cloud_options import CloudFolderConfig
from gentool.data.options import Split
from gentool.errors import UserError

if TYPE_CHECKING:
    from gentool.data.clouds import Shapes


class ModelNetConfig(CloudFolderConfig):
    """CLASS/{train,test}/*.off, or ply_data_{train,test}*.h5 with `data` and `label`."""

    name: Literal["modelnet"] = "modelnet"
    """ModelNet meshes or clouds, a class per folder."""
    path: str
    """The folder with CLASS/{train,test}/*.off, or with ply_data_train*.h5, ply_data_test*.h5, shape_names.txt."""

    what: ClassVar[str] = "ModelNet: folders of .off meshes, or clouds in ply_data_*.h5"
    origin: ClassVar[str] = "path (ModelNet10 or ModelNet40; meshes need the extra gentool[mesh])"

    def shapes(self, split: Split) -> Shapes:
        from gentool.data.cloud_files import (  # here, not above: a recipe is checked without numpy
            by_category,
            folder_of,
            h5_clouds,
        )
        from gentool.data.meshes import MeshShapes

        folder = folder_of(self.path, "CLASS/{train,test}/*.off or ply_data_{train,test}*.h5")
        if any(folder.glob("ply_data_*.h5")):
            return h5_clouds(folder, split, self.up)
        listed = by_category(self.path, self.classes, lambda home: _files(home, split))
        return MeshShapes.of(self.path, listed, self.points, self.up, self.normals)


def _files(home: Path, split: Split) -> list[Path]:
    files = sorted((home / split).glob("*.off"))
    if not files:
        raise UserError(f"has no {split}/*.off", str(home))
    return files
