"""Options that sets of point clouds share. No torch, no numpy: a recipe is validated in an instant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from gentool.data.options import DataConfig, Split
from gentool.data.spec import DataSpec, Fault, Normalisation
from gentool.recipes.schema import Positive

if TYPE_CHECKING:
    from gentool.data.clouds import CloudSource, Shapes


class CloudConfig(DataConfig):
    """Shapes, each an example of `points` points (points, 3), float32, y up."""

    points: Positive = 2048
    """Points per cloud."""
    normalise: Normalisation = "global"
    """global: shift and scale by the mean and the standard deviation over all training shapes; shape-box: each
    shape's box to [-1, 1] by its longest side; none: as stored."""
    normals: bool = False
    """Examples of (points, 6): each point's unit outward normal after its place. For sets that know their surfaces."""
    views: Positive = 1
    """Random draws of the points of each training shape, each an example of its own; test clouds are drawn once."""

    @model_validator(mode="after")
    def _no_leak(self) -> CloudConfig:
        if self.held_out is not None:
            raise ValueError("held_out: sets of shapes have a test part of their own, by shape")
        return self

    def shapes(self, split: Split) -> Shapes:
        """The shapes of a split, before points are drawn and normalised."""
        raise NotImplementedError

    def has_test(self) -> bool:
        return True

    def source(self, split: Split) -> CloudSource:
        from gentool.data.clouds import CloudSource  # here, not above: a recipe is checked without numpy

        if split == "train":
            return CloudSource(self.shapes(split), self, split)
        # The test part is shifted and scaled by the training shapes' figures, as the model is.
        frame = self.source("train").frame if self.normalise == "global" else None
        return CloudSource(self.shapes(split), self, split, frame)

    def faults(self) -> Iterator[Fault]:
        from gentool.data.clouds import shape_faults

        for split in ("train", "test"):
            yield from shape_faults(self.shapes(split))


class CloudFolderConfig(CloudConfig):
    """Shapes in a folder of the user's."""

    path: str
    """The folder."""
    up: Literal["y", "z"] = "y"
    """The axis that points up in the files; z is turned to y."""

    def present(self) -> bool:
        return Path(self.path).is_dir()

    def expected_spec(self) -> DataSpec | None:
        """Known where the recipe lists its classes by name; a dry run then needs no files."""
        names = tuple(str(name) for name in self.classes or () if isinstance(name, str))
        if not names or len(names) != len(self.classes or ()):
            return None
        return DataSpec("points", (self.points, 6 if self.normals else 3), len(names), names)


class ThreePartConfig(CloudFolderConfig):
    """Shapes in a folder with three parts, of which two are used."""

    test_part: Literal["val", "test"] = "val"
    """Which part is `test`; published figures of point-cloud models use val as their reference."""
