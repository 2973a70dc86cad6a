"""Names of what can be measured of strokes in a picture; no torch."""

from __future__ import annotations

from typing import Literal

Measure = Literal["slant", "thickness", "ink"]
