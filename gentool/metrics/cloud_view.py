"""Clouds in a report: canvases that a reader turns, from data and a script inside the page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.resources import files

import numpy as np

from gentool.runs.pictures import COLOURS

SHOWN = 16
"""Most clouds in a report."""
POINTS = 4096
"""Most points of each that are drawn."""
SIDE = 200
"""Pixels of a canvas."""


def script() -> str:
    """The JavaScript that draws and turns the canvases; it loads nothing."""
    return files("gentool.metrics").joinpath("clouds.js").read_text(encoding="utf-8")


def packed(cloud: np.ndarray) -> str:
    """Points (P, 3) as int16 triples in base64, about the middle of their box, the farthest at 32767."""
    middle = (cloud.min(0) + cloud.max(0)) / 2
    centred = cloud[:POINTS].astype(np.float64) - middle
    reach = max(float(np.linalg.norm(centred, axis=1).max()), 1e-12)
    return base64.b64encode(np.rint(centred / reach * 32767).astype("<i2").tobytes()).decode()


def view(clouds: np.ndarray, labels: Sequence[int] | None) -> str:
    """HTML of the first clouds of (N, P, 3), each a canvas in its class's colour."""
    shown = clouds[:SHOWN]
    canvases = []
    for i, cloud in enumerate(shown):
        label = None if labels is None else int(labels[i])
        name = f"sample {i}" + ("" if label is None else f", class {label}")
        colour = COLOURS[(label or 0) % len(COLOURS)]
        canvases.append(
            f'<canvas width="{SIDE}" height="{SIDE}" tabindex="0" role="img" aria-label="{name}" title="{name}" '
            f'style="touch-action:none;cursor:grab" data-colour="{colour}" data-points="{packed(cloud)}"></canvas>'
        )
    caption = (
        f"{len(shown)} of {len(clouds)} samples, {clouds.shape[1]} points each. Drag, or press the arrow keys, to turn "
        "them; each is drawn to its own scale."
    )
    return f"<figure>{''.join(canvases)}<figcaption>{caption}</figcaption></figure>"
