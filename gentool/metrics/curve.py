"""A line chart as inline SVG: what the report shows of a loss, with no plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT = 760, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 12, 34
POINTS = 400
"""Most points drawn; longer curves are averaged over equal stretches."""
LOG_RANGE = 30.0
"""A positive curve whose ends of range differ by more than this factor gets a logarithmic axis."""


def line_chart(points: Sequence[tuple[float, float]], x_name: str, y_name: str) -> str:
    """SVG of y over x, with a smoothed line over the raw one; "" for fewer than two finite points.

    Args:
        points: (x, y) in any order; points that are not finite are left out.
        x_name, y_name: what the axes are, plain text without markup.
    """
    data = np.array([p for p in points if all(map(math.isfinite, p))], dtype=np.float64).reshape(-1, 2)
    data = data[data[:, 0].argsort(kind="stable")]
    if len(data) < 2 or data[0, 0] == data[-1, 0]:
        return ""
    data = np.array([part.mean(0) for part in np.array_split(data, min(POINTS, len(data)))])
    x, y = data.T
    log = bool(y.min() > 0 and y.max() / y.min() > LOG_RANGE)
    ticks = _decades(y.min(), y.max()) if log else _ticks(y.min(), y.max())
    scale = np.log10 if log else np.asarray
    low, high = scale(min(ticks[0], y.min())), scale(max(ticks[-1], y.max()))

    def to_x(value: float) -> float:
        return LEFT + (value - x[0]) / (x[-1] - x[0]) * (WIDTH - LEFT - RIGHT)

    def to_y(value: float) -> float:
        return HEIGHT - BOTTOM - float((scale(value) - low) / (high - low)) * (HEIGHT - TOP - BOTTOM)

    def path(values: np.ndarray) -> str:
        return "M" + "L".join(f"{to_x(a):.1f} {to_y(b):.1f}" for a, b in zip(x, values))

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="curve-title">',
        f'<title id="curve-title">{y_name} over {x_name}: from {y[0]:.4g} at {x[0]:.6g} '
        f"to {y[-1]:.4g} at {x[-1]:.6g}</title>",
    ]
    for tick in ticks:
        at = to_y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in _ticks(x[0], x[-1]):
        if x[0] <= tick <= x[-1]:
            parts.append(
                f'<text x="{to_x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>'
            )
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{x_name}</text>')
    parts.append(f'<path class="raw" d="{path(y)}"/><path class="smooth" d="{path(_smooth(y))}"/></svg>')
    return "".join(parts)


def _smooth(y: np.ndarray) -> np.ndarray:
    """Centred running mean over a twentieth of the curve; the window shrinks towards the ends."""
    reach = len(y) // 40
    sums = np.concatenate([[0], y.cumsum()])
    i = np.arange(len(y))
    half = np.minimum(reach, np.minimum(i, len(y) - 1 - i))
    return (sums[i + half + 1] - sums[i - half]) / (2 * half + 1)


def _ticks(low: float, high: float) -> list[float]:
    """Four to ten multiples of 1, 2 or 5 times a power of ten that enclose [low, high]."""
    span = (high - low) or abs(high) or 1.0
    raw = span / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, max(last, first + 1) + 1)]


def _decades(low: float, high: float) -> list[float]:
    return [10.0**i for i in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
