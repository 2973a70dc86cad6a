"""What examples are, and what is wrong with one. No torch, no numpy: a recipe is validated in an instant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from gentool.runs.samples import Kind

Normalisation = Literal["global", "shape-box", "none"]
"""`global`: one shift and one scale for the whole set; `shape-box`: each cloud's own box; `none`: as stored."""


@dataclass(frozen=True)
class Frame:
    """How clouds were brought to the model's range, and so where figures on them are measured.

    Attributes:
        mode: `shape-box` puts the middle of each cloud's box to 0 and its longest side to [-1, 1].
        centre, scale: of `global`: the mean point and the standard deviation of all coordinates of the training
            shapes; a cloud was (x * scale + centre).
    """

    mode: Normalisation
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0

    @classmethod
    def read(cls, stored: Any) -> Frame | None:
        """From the JSON of a run or a packed file; None for none.

        Raises:
            KeyError, TypeError, ValueError: not what `asdict` of a frame is.
        """
        if stored is None:
            return None
        x, y, z = map(float, stored["centre"])
        return cls(stored["mode"], (x, y, z), float(stored["scale"]))


@dataclass(frozen=True)
class DataSpec:
    """What one example is.

    Attributes:
        kind: `image` (uint8), `vector` or `points` (float32).
        shape: (C, H, W), (D,) or (points, 3).
        classes: how many classes; 0 where there are no labels.
        class_names: a name a class.
        frame: of clouds, how they were normalised; None where that is unknown, as without the files.
        phrases: what sentences about examples are made of; empty where examples are not described.
    """

    kind: Kind
    shape: tuple[int, ...]
    classes: int
    class_names: tuple[str, ...]
    # What the files' statistics are is no part of what a model's shapes must agree with.
    frame: Frame | None = field(default=None, compare=False)
    phrases: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> DataSpec:
        """From the JSON that a run keeps; raises KeyError, TypeError or ValueError where it is damaged."""
        names, frame = tuple(stored["class_names"]), Frame.read(stored.get("frame"))
        phrases = tuple(stored.get("phrases", ()))
        return cls(stored["kind"], tuple(stored["shape"]), stored["classes"], names, frame, phrases)


@dataclass(frozen=True)
class Fault:
    """One bad thing that `gentool data check` found: which file, row or offset, and what is wrong."""

    where: str
    message: str
