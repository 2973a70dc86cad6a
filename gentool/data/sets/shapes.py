"""`shapes`: airplanes, chairs and tables made here from convex parts; no files, no download."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from gentool.data.cloud_options import CloudConfig
from gentool.data.options import Split
from gentool.recipes.schema import Positive

if TYPE_CHECKING:
    from gentool.data.clouds import Shapes


class ShapesConfig(CloudConfig):
    """Procedural shapes. Each is fixed by its class, split and number; the splits share none."""

    name: Literal["shapes"] = "shapes"
    """Procedural airplanes, chairs and tables."""
    count: Positive = 300
    """Training shapes of each class; the test part has a tenth, at least 40, of its own."""

    what: ClassVar[str] = "clouds of airplanes, chairs and tables made from convex parts, 3 classes"
    origin: ClassVar[str] = "made here; no download"

    def published(self) -> int:
        return len(CLASSES) * self.count * self.views

    def shapes(self, split: Split) -> Shapes:
        from gentool.data.made_shapes import MadeShapes  # here, not above: a recipe is checked without numpy

        return MadeShapes.of(self.count if split == "train" else max(40, self.count // 10), split)


CLASSES = ("airplane", "chair", "table")
"""In the order of their labels."""
PHRASES = (
    *CLASSES,
    *("low wings", "mid wings", "high wings"),
    *("low tailplane", "high tailplane"),
    *("no engines", "two engines", "four engines"),
    *("rectangular seat", "round seat"),
    *("four legs", "pedestal legs", "sled legs", "trestle legs"),
    *("no stretchers", "three stretchers"),
    *("no back", "solid back", "slatted back", "barred back"),
    *("no arms", "two arms"),
    *("rectangular top", "round top"),
    *("no shelf", "one shelf"),
)
"""What sentences about the shapes are made of."""
