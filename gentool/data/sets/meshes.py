"""`meshes`: a folder of meshes of one's own, points drawn from their surfaces."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from gentool.data.cloud_options import CloudFolderConfig
from gentool.data.options import Split
from gentool.errors import UserError

if TYPE_CHECKING:
    from gentool.data.clouds import Shapes

SUFFIXES = (".off", ".obj", ".ply", ".stl")


class MeshesConfig(CloudFolderConfig):
    """Meshes or point files, a class per first subfolder where all lie in such.

    The hash of a file's name decides its part: 80 % train, 10 % val, 10 % test, the same on every machine.
    """

    name: Literal["meshes"] = "meshes"
    """A folder of .off, .obj, .ply or .stl."""
    path: str
    """The folder; meshes may lie in subfolders, one a class."""
    test_part: Literal["val", "test", "both"] = "both"
    """Which of the held-out tenths is `test`."""

    what: ClassVar[str] = "your meshes: a folder of .off, .obj, .ply or .stl, a class per subfolder"
    origin: ClassVar[str] = "path (needs the extra gentool[mesh])"

    def shapes(self, split: Split) -> Shapes:
        from gentool.data.cloud_files import folder_of  # here, not above: a recipe is checked without numpy
        from gentool.data.meshes import MeshShapes

        folder = folder_of(self.path, f"{', '.join(SUFFIXES)} files")
        files = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES]
        if not files:
            raise UserError(f"holds no meshes; expected {', '.join(SUFFIXES)}", self.path)
        tops = [file.relative_to(folder).parts[0] if file.parent != folder else "" for file in files]
        names = tuple(sorted(set(tops))) if all(tops) else ()
        listed = [
            (file, names.index(top) if names else -1)
            for file, top in zip(files, tops)
            if self._wanted(part_of(file.name), split)
        ]
        return MeshShapes.of(self.path, (listed, names), self.points, self.up, self.normals)

    def _wanted(self, part: str, split: Split) -> bool:
        if split == "train" or part == "train":
            return part == split
        return self.test_part in (part, "both")


def part_of(name: str) -> str:
    """train, val or test: 80, 10 and 10 % by the file's name."""
    share = hashlib.sha256(Path(name).stem.encode()).digest()[0] / 256
    return "train" if share < 0.8 else "val" if share < 0.9 else "test"
