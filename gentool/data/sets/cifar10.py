"""CIFAR-10: the binary batches, or pictures as train/<class>/ and test/<class>/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from gentool.data.fetch import Remote
from gentool.data.options import RootConfig, Split
from gentool.data.spec import Fault
from gentool.errors import UserError

if TYPE_CHECKING:
    from gentool.data.source import Source

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_BATCHES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}


class Cifar10Config(RootConfig):
    """32x32 colour photographs of ten things."""

    name: Literal["cifar10"] = "cifar10"
    """Photographs of ten things, 50000 + 10000, 32x32 RGB."""

    what: ClassVar[str] = "photographs of ten things, 50000 + 10000, 32x32 RGB, 10 classes"
    origin: ClassVar[str] = "Krizhevsky 2009; `gentool data fetch cifar10`"
    original: ClassVar[tuple[int, int, int]] = (32, 32, 3)
    class_names: ClassVar[tuple[str, ...]] = CLASSES
    remotes: ClassVar[tuple[Remote, ...]] = (
        Remote(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            170052171,
            keep=_BATCHES["train"] + _BATCHES["test"],
        ),
    )

    def has_test(self) -> bool:
        return True

    def published(self) -> int:
        return 50_000

    def source(self, split: Split) -> Source:
        from gentool.data.cifar import read_records  # here, not above: a recipe is checked without numpy
        from gentool.data.picture_tree import PictureSource, open_layout

        place = self._find()
        if place.is_dir() and (place / _BATCHES["test"][0]).is_file():
            return read_records([place / name for name in _BATCHES[split]], CLASSES, self)
        layout = open_layout(place)
        if not layout.split or layout.class_names != CLASSES:
            raise UserError(
                f"expected train/<class>/ and test/<class>/ with the classes {', '.join(CLASSES)}", str(place)
            )
        return PictureSource(layout, layout.rows(split), self, channels=3)

    def faults(self) -> Iterator[Fault]:
        from gentool.data.picture_tree import picture_faults

        place = self._find()
        if place.is_dir() and (place / _BATCHES["test"][0]).is_file():
            return super().faults()
        return picture_faults(place, self, channels=3)

    def present(self) -> bool:
        try:
            self._find()
        except UserError:
            return False
        return True

    def _find(self) -> Path:
        """The folder with the binary batches, or the folder or archive with the pictures."""
        folders = [self.home(), self.home() / "cifar-10-batches-bin", self.folder()]
        folders += [self.folder() / "cifar-10-batches-bin"]
        for folder in folders:
            if (folder / _BATCHES["test"][0]).is_file() or (folder / "train" / CLASSES[0]).is_dir():
                return folder
        for folder in folders:
            archives = sorted(folder.glob("cifar*.tar*")) + sorted(folder.glob("cifar*.zip"))
            if archives:
                return archives[0]
        root = Path(self.root) if self.root else None
        if root is not None and root.is_file():
            return root
        pickles = [
            f for f in [*folders, self.folder() / "cifar-10-batches-py"] if (f / "data_batch_1").is_file()
        ]
        if pickles:
            raise UserError(
                "holds the Python version, which is pickles: reading one runs code from the file; "
                "get the binary version with `gentool data fetch cifar10`",
                str(pickles[0]),
            )
        raise UserError(
            f"no data_batch_1.bin, no train/airplane/ and no cifar*.tar in {self.home()} or {self.folder()}; "
            "run `gentool data fetch cifar10`, or set root to the folder that holds them",
            "data set cifar10",
        )
