"""`mnist-clouds`: MNIST's digits as flat clouds of points, real data that is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from gentool.data.cloud_options import CloudConfig
from gentool.data.fetch import Remote
from gentool.data.options import Split
from gentool.data.sets.mnist import MnistConfig
from gentool.data.spec import DataSpec

if TYPE_CHECKING:
    from gentool.data.clouds import Shapes


class _Pictures(MnistConfig):
    """MNIST's files, also where the set `mnist` has put them."""

    name: Literal["mnist-clouds"] = "mnist-clouds"  # type: ignore[assignment]
    aliases: ClassVar[tuple[str, ...]] = ("mnist", *MnistConfig.aliases)


class MnistCloudsConfig(CloudConfig):
    """Points drawn by the pixels' intensities, anywhere in the pixel; z is uniform in +-0.1 picture widths."""

    name: Literal["mnist-clouds"] = "mnist-clouds"
    """MNIST digits as clouds of points."""
    root: str | None = None
    """Folder with the set's files, or with a folder of the set's name; absent: $GENTOOL_DATA or ./.data."""

    what: ClassVar[str] = "clouds of handwritten digits, 60000 + 10000, 10 classes"
    origin: ClassVar[str] = "MNIST; `gentool data fetch mnist-clouds`, or the files of mnist"
    remotes: ClassVar[tuple[Remote, ...]] = MnistConfig.remotes
    class_names: ClassVar[tuple[str, ...]] = MnistConfig.class_names

    def pictures(self) -> MnistConfig:
        """The files."""
        return _Pictures(root=self.root)

    def home(self) -> Path:
        """The set's own folder, where `gentool data fetch` puts its files."""
        return self.pictures().home()

    def published(self) -> int:
        return 60_000 * self.views

    def shapes(self, split: Split) -> Shapes:
        from gentool.data.digit_clouds import (
            DigitShapes,
        )  # here, not above: a recipe is checked without numpy

        return DigitShapes.of(self.pictures(), split, self.class_names)

    def present(self) -> bool:
        return self.pictures().present()

    def expected_spec(self) -> DataSpec:
        """From what is published of the set; a dry run needs no download."""
        from gentool.data.choice import class_numbers

        names = self.class_names
        if self.classes is not None:
            names = tuple(names[k] for k in class_numbers(self.classes, names, f"data set {self.name}"))
        return DataSpec("points", (self.points, 3), len(names), names)
