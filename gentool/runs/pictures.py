"""Pictures a person looks at: grids of images and scatter plots of 2-d vectors, with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

GAP = 2
READABLE = 64
"""Pictures with a smaller side are enlarged to at least this many pixels, so that 8x8 digits can be read."""
COLOURS = (
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#7f7f7f",
    "#bcbd22",
    "#17becf",
)


def grid(images: np.ndarray, labels: np.ndarray | None = None) -> Image.Image:
    """(N, H, W, C) uint8 -> one picture, row by row, ceil(sqrt(N)) columns.

    Where each row of the grid holds one label, that label stands before the row.
    """
    columns = math.ceil(math.sqrt(len(images)))
    return sheet(images, columns, _row_labels(labels, math.ceil(len(images) / columns), columns))


def sheet(images: np.ndarray, columns: int, names: Sequence[str] = ()) -> Image.Image:
    """(N, H, W, C) uint8 -> one picture, row by row; `names` stand before the rows.

    Small pictures are enlarged by a whole factor, nearest neighbour.
    """
    count, height, width, _ = images.shape
    rows = math.ceil(count / columns)
    factor = max(1, math.ceil(READABLE / max(height, width)))
    high, wide = height * factor + GAP, width * factor + GAP
    margin = 10 + 8 * max(map(len, names)) if names else 0
    page = Image.new("RGB", (margin + columns * wide + GAP, rows * high + GAP), "white")
    for i, pixels in enumerate(images):
        tile = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        tile = tile.resize((width * factor, height * factor), Image.Resampling.NEAREST)
        page.paste(tile, (margin + i % columns * wide + GAP, i // columns * high + GAP))
    pen = ImageDraw.Draw(page)
    for row, name in enumerate(names):
        pen.text((5, row * high + high // 2 - 6), name, fill="black")
    return page


def _row_labels(labels: np.ndarray | None, rows: int, columns: int) -> Sequence[str]:
    if labels is None or (np.asarray(labels) < 0).any():
        return ()
    by_row = [set(map(int, labels[r * columns : (r + 1) * columns])) for r in range(rows)]
    return [str(row.pop()) for row in by_row] if all(len(row) == 1 for row in by_row) else ()


def scatter(points: np.ndarray, labels: np.ndarray | None = None, side: int = 768) -> Image.Image:
    """(N, 2) -> a square picture, both axes alike, centred on the origin; the half-width stands below."""
    reach = 1.05 * float(np.abs(points).max(initial=1e-12))
    places = (points * [1, -1] / reach + 1) * (side - 1) / 2
    sheet = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(sheet)
    pen.line([(side // 2, 0), (side // 2, side)], fill="#dddddd")
    pen.line([(0, side // 2), (side, side // 2)], fill="#dddddd")
    kinds = np.zeros(len(points), int) if labels is None else np.asarray(labels)
    for (x, y), kind in zip(places, kinds):
        pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill=COLOURS[int(kind) % len(COLOURS)])
    pen.text((5, side - 16), f"[{-reach:.3g}, {reach:.3g}] each way, {len(points)} points", fill="black")
    return sheet
