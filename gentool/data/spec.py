"""What examples are, and what is wrong with one. No torch, no numpy: a recipe is validated in an instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gentool.runs.samples import Kind


@dataclass(frozen=True)
class DataSpec:
    """What one example is.

    Attributes:
        kind: `image` (uint8), `vector` or `points` (float32).
        shape: (C, H, W), (D,) or (points, 3).
        classes: how many classes; 0 where there are no labels.
        class_names: a name a class.
    """

    kind: Kind
    shape: tuple[int, ...]
    classes: int
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Fault:
    """One bad thing that `gentool data check` found: which file, row or offset, and what is wrong."""

    where: str
    message: str
