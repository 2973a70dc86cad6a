"""What a look at a model finds besides its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Picture:
    """A picture for the report, and a PNG beside it.

    Attributes:
        name: of the file, without its ending.
        pixels: uint8 (H, W, C), C = 1 or 3.
        caption: what it shows.
    """

    name: str
    pixels: np.ndarray
    caption: str


@dataclass(frozen=True)
class Findings:
    """What `GenModule.study_model` adds to a model's figures.

    Attributes:
        figures: by name, such as vary from run to run (timings).
        details: tables and settings, by name, as JSON takes them.
        pictures: what can be shown.
        warnings: what to mind.
    """

    figures: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()
    warnings: tuple[str, ...] = ()
