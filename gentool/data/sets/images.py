"""`images`: a folder, tar or zip of pictures.

Layouts:
    a/1.png b/2.png ...                     a class per first subfolder
    train/a/1.png test/a/2.png ...          the same with a test part of its own (without test/: val/)
    1.png 2.png ...                         no labels
    dataset.json beside or above them       labels as EDM packs them: {"labels": [[name, class], ...]}
One folder that holds everything (`mydata/a/1.png`) is looked through.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from gentool.data.options import ImageConfig, Split
from gentool.data.spec import DataSpec, Fault
from gentool.errors import UserError
from gentool.recipes.schema import Positive

if TYPE_CHECKING:
    from gentool.data.source import Source


class ImagesConfig(ImageConfig):
    """Pictures in a folder, tar or zip file."""

    name: Literal["images"] = "images"
    """A folder, tar or zip of pictures."""
    path: str
    """The folder, .tar (also .gz, .xz, .bz2) or .zip; a class per subfolder; train/ and test/."""
    channels: Literal[1, 3] | None = None
    """Gray or RGB; absent: RGB as soon as one picture has colour."""
    class_count: Positive | None = None
    """How many classes the folders must give: checked when they are read, and what a dry run without them goes by."""
    skip_bad: bool = False
    """Leave out pictures that cannot be read, and list them; every one is decoded once more. false: an error
    names the first."""

    what: ClassVar[str] = "your pictures: a folder, tar or zip, a class per subfolder"
    origin: ClassVar[str] = "path"
    # The pictures that are left enter the fingerprint by themselves.
    not_content: ClassVar[frozenset[str]] = ImageConfig.not_content | {"skip_bad"}

    def has_test(self) -> bool:
        from gentool.data.picture_tree import (
            open_layout,
        )  # here, not above: a recipe is checked without numpy

        return bool(open_layout(self.path).rows("test"))

    def source(self, split: Split) -> Source:
        from gentool.data.picture_tree import PictureSource, open_layout

        layout = open_layout(self.path)
        source = PictureSource(layout, layout.rows(split), self, self.channels, skip_bad=self.skip_bad)
        if self.class_count is not None and source.spec.classes != self.class_count:
            raise UserError(
                f"found {source.spec.classes} class folders, but data.class_count is {self.class_count}",
                self.path,
            )
        return source

    def present(self) -> bool:
        return Path(self.path).exists()

    def expected_spec(self) -> DataSpec | None:
        side = self.pad or self.size
        if side is None:
            return None
        names = tuple(map(str, range(self.class_count or 0)))
        return DataSpec("image", (self.channels or 3, side, side), len(names), names)

    def faults(self) -> Iterator[Fault]:
        from gentool.data.picture_tree import picture_faults

        return picture_faults(self.path, self, self.channels)
