"""MNIST and Fashion-MNIST: the four IDX files, plain or gzip."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from gentool.data.fetch import Remote
from gentool.data.options import RootConfig, Split
from gentool.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from gentool.data.source import Source

_STEMS = {"train": "train", "test": "t10k"}


class MnistConfig(RootConfig):
    """28x28 gray handwritten digits."""

    name: Literal["mnist"] = "mnist"
    """Handwritten digits, 60000 + 10000, 28x28 gray."""

    what: ClassVar[str] = "handwritten digits, 60000 + 10000, 28x28 gray, 10 classes"
    origin: ClassVar[str] = "LeCun, Cortes and Burges; `gentool data fetch mnist`"
    original: ClassVar[tuple[int, int, int]] = (28, 28, 1)
    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")
    aliases: ClassVar[tuple[str, ...]] = ("MNIST/raw",)  # where torchvision puts them
    # Hashes of the content: mirrors carry several gzip files of the same bytes.
    remotes: ClassVar[tuple[Remote, ...]] = tuple(
        Remote(f"https://storage.googleapis.com/cvdf-datasets/mnist/{file}", sha256, size, "gunzipped")
        for file, size, sha256 in (
            (
                "train-images-idx3-ubyte.gz",
                9912422,
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            (
                "train-labels-idx1-ubyte.gz",
                28881,
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            (
                "t10k-images-idx3-ubyte.gz",
                1648877,
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            (
                "t10k-labels-idx1-ubyte.gz",
                4542,
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        )
    )

    def has_test(self) -> bool:
        return True

    def published(self) -> int:
        return 60_000

    def source(self, split: Split) -> Source:
        from gentool.data.arrays import ArraySource  # here, not above: a recipe is checked without numpy

        images, labels, where = self.read(split)
        return ArraySource(where, images[..., None], labels, self.class_names, options=self)

    def read(self, split: Split) -> tuple[np.ndarray, np.ndarray, str]:
        """Pictures (N, 28, 28) uint8, labels (N,) uint8, and the pictures' file.

        Raises:
            UserError: files are missing. CorruptError: they cannot be read, or do not belong together.
        """
        from gentool.data.arrays import checked_labels
        from gentool.data.idx import read_idx

        images, labels = (
            self._find(f"{_STEMS[split]}-{part}-ubyte") for part in ("images-idx3", "labels-idx1")
        )
        pixels, marks = read_idx(images, 3), read_idx(labels, 1)
        checked_labels(str(images), marks, len(pixels), tuple("0123456789"))
        return pixels, marks, str(images)

    def present(self) -> bool:
        try:
            self._find("train-images-idx3-ubyte")
        except UserError:
            return False
        return True

    def _find(self, stem: str) -> Path:
        folders = [self.home(), *(self.folder() / alias for alias in self.aliases), self.folder()]
        for folder in folders:
            for name in (stem, f"{stem}.gz"):
                if (folder / name).is_file():
                    return folder / name
        raise UserError(
            f"no {stem}[.gz] in {self.home()} or {self.folder()}; "
            f"run `gentool data fetch {self.name}`, or set root to the folder that holds it",
            f"data set {self.name}",
        )


class FashionMnistConfig(MnistConfig):
    """28x28 gray pictures of clothes."""

    name: Literal["fashion-mnist"] = "fashion-mnist"  # type: ignore[assignment]
    """Clothes, 60000 + 10000, 28x28 gray."""

    what: ClassVar[str] = "clothes, 60000 + 10000, 28x28 gray, 10 classes"
    origin: ClassVar[str] = "Zalando Research; `gentool data fetch fashion-mnist`"
    class_names: ClassVar[tuple[str, ...]] = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    aliases: ClassVar[tuple[str, ...]] = ("FashionMNIST/raw",)
    remotes: ClassVar[tuple[Remote, ...]] = tuple(
        Remote(
            f"https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/{file}",
            sha256,
            size,
        )
        for file, size, sha256 in (
            (
                "train-images-idx3-ubyte.gz",
                26421880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            (
                "train-labels-idx1-ubyte.gz",
                29515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            (
                "t10k-images-idx3-ubyte.gz",
                4422102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            (
                "t10k-labels-idx1-ubyte.gz",
                5148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        )
    )
