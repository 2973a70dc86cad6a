"""Epsilon against steps as a picture, with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from gentool.privacy.accountants import Accountant
from gentool.privacy.mechanisms import Phase
from gentool.privacy.statement import rounded_up
from gentool.runs.atomic import atomic_write

WIDTH, HEIGHT = 960, 600
_SCALE = 2
"""Drawn at twice the size and reduced, which smooths the lines."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 30, 96, 64
_STYLES: tuple[tuple[str, tuple[int, int] | None], ...] = (
    ("#0072b2", None),
    ("#d55e00", (14, 8)),
    ("#009e73", (4, 6)),
)
"""Colour (told apart by colour-blind eyes too) and dash pattern of each line."""


@dataclass(frozen=True)
class Curve:
    """Epsilon after `steps[i]` steps, by the accountant called `title`."""

    title: str
    steps: tuple[int, ...]
    epsilons: tuple[float, ...]


def curves(phases: Sequence[Phase], delta: float, accountants: Sequence[Accountant]) -> list[Curve]:
    """One curve an accountant from the first step to the last; of one that is slow, at fewer points."""
    ends = list(accumulate(phase.steps for phase in phases))
    total = ends[-1]
    drawn = []
    for accountant in accountants:
        count = 120 if accountant.instant else 12
        steps = sorted({max(1, round(total * i / count)) for i in range(count + 1)} | set(ends))
        epsilons = tuple(accountant.epsilon(_first(phases, n), delta).epsilon for n in steps)
        drawn.append(Curve(accountant.title, tuple(steps), epsilons))
    return drawn


def save(
    path: Path, drawn: Sequence[Curve], phases: Sequence[Phase], delta: float, target: float | None = None
) -> None:
    """Writes a PNG of `drawn`, with a rule where a phase ends and one at the `target` epsilon, if any."""
    picture = _Axes(
        x_end=drawn[0].steps[-1], y_end=1.05 * max(target or 0.0, *(max(curve.epsilons) for curve in drawn))
    )
    picture.frame(f"Privacy loss against steps, at delta {delta:g}", "steps", "epsilon")
    start = 0
    for number, phase in enumerate(phases, 1):
        if start:
            picture.line([(start, 0), (start, picture.y_end)], "#999999", (6, 6), 1)
        if len(phases) > 1 and phase.steps > 0.1 * picture.x_end:  # else the words would run into the next
            picture.label(start, 0, f"phase {number}", 8)
        start += phase.steps
    if target is not None:
        picture.line([(0, target), (picture.x_end, target)], "#cc0000", None, 1)
        picture.label(0, target, f"target {target:g}", 8)
    for curve, (colour, dash) in zip(drawn, _STYLES):
        picture.line(list(zip(curve.steps, curve.epsilons)), colour, dash, 3)
        picture.dot(curve.steps[-1], curve.epsilons[-1], colour)
    picture.legend(
        [(f"{curve.title}: {rounded_up(curve.epsilons[-1], 4)}", *s) for curve, s in zip(drawn, _STYLES)]
    )
    with atomic_write(path) as scratch:
        picture.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(scratch, format="PNG")


def _first(phases: Sequence[Phase], steps: int) -> list[Phase]:
    """The first `steps` steps of `phases`."""
    taken: list[Phase] = []
    for phase in phases:
        if steps > 0:
            taken.append(replace(phase, steps=min(steps, phase.steps)))
        steps -= phase.steps
    return taken


def ticks(end: float) -> list[float]:
    """4 to 10 round numbers from 0 to at most `end` > 0, spaced 1, 2 or 5 times a power of ten."""
    unit = 10 ** math.floor(math.log10(end))
    step = next(unit * m for m in (0.1, 0.2, 0.5, 1, 2) if end / (unit * m) <= 10)
    return [step * i for i in range(math.floor(end / step * (1 + 1e-12)) + 1)]


class _Axes:
    """A canvas with linear axes from 0; places are in data units, lengths in final pixels."""

    def __init__(self, x_end: float, y_end: float) -> None:
        self.x_end, self.y_end = x_end, y_end or 1.0
        self.image = Image.new("RGB", (WIDTH * _SCALE, HEIGHT * _SCALE), "white")
        self._pen = ImageDraw.Draw(self.image)
        self._fonts = {size: ImageFont.load_default(size * _SCALE) for size in (15, 20)}

    def _place(self, x: float, y: float) -> tuple[float, float]:
        wide, high = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
        return (_LEFT + wide * x / self.x_end) * _SCALE, (_TOP + high * (1 - y / self.y_end)) * _SCALE

    def _text(
        self, x: float, y: float, text: str, anchor: str, size: int = 15, fill: str = "#222222"
    ) -> None:
        self._pen.text((x, y), text, fill=fill, font=self._fonts[size], anchor=anchor)

    def frame(self, title: str, x_name: str, y_name: str) -> None:
        """Grid, ticks with numbers, names of both axes and the title."""
        for y in ticks(self.y_end):
            self.line([(0, y), (self.x_end, y)], "#e4e4e4", None, 1)
            left, middle = self._place(0, y)
            self._text(left - 8 * _SCALE, middle, f"{y:g}", "rm")
        for x in (x for x in ticks(self.x_end) if x == round(x)):
            centre, bottom = self._place(x, 0)
            self._pen.line([(centre, bottom), (centre, bottom + 5 * _SCALE)], fill="#222222", width=_SCALE)
            text = f"{round(x):,}" if x < 1e7 else f"{x:g}"
            self._text(centre, bottom + 9 * _SCALE, text, "mt")
        self.line([(0, self.y_end), (0, 0), (self.x_end, 0)], "#222222", None, 1)
        self._text(WIDTH * _SCALE / 2, 12 * _SCALE, title, "mt", 20)
        self._text((WIDTH + _LEFT - _RIGHT) * _SCALE / 2, (HEIGHT - 12) * _SCALE, x_name, "mb")
        self._text(_LEFT * _SCALE, (_TOP - 10) * _SCALE, y_name, "mb")

    def line(
        self, points: Sequence[tuple[float, float]], colour: str, dash: tuple[int, int] | None, width: int
    ) -> None:
        """A line through `points`, dashed `(on, off)` where told."""
        places = [self._place(*point) for point in points]
        for piece in [places] if dash is None else _dashes(places, dash[0] * _SCALE, dash[1] * _SCALE):
            self._pen.line(piece, fill=colour, width=width * _SCALE, joint="curve")

    def dot(self, x: float, y: float, colour: str) -> None:
        centre, middle = self._place(x, y)
        reach = 5 * _SCALE
        self._pen.ellipse((centre - reach, middle - reach, centre + reach, middle + reach), fill=colour)

    def label(self, x: float, y: float, text: str, gap: int) -> None:
        """Grey words right of and just above a place."""
        left, middle = self._place(x, y)
        self._text(left + gap * _SCALE, middle - 2 * _SCALE, text, "lb", fill="#666666")

    def legend(self, rows: Sequence[tuple[str, str, tuple[int, int] | None]]) -> None:
        """Title, colour and dash of every curve, side by side above the axes, where they hide nothing."""
        widths = [self._fonts[15].getlength(text) + 76 * _SCALE for text, *_ in rows]
        left, middle = (WIDTH * _SCALE - sum(widths)) / 2, 54 * _SCALE
        for (text, colour, dash), width in zip(rows, widths):
            ends = [(left, middle), (left + 44 * _SCALE, middle)]
            for piece in [ends] if dash is None else _dashes(ends, dash[0] * _SCALE, dash[1] * _SCALE):
                self._pen.line(piece, fill=colour, width=3 * _SCALE)
            self._text(left + 52 * _SCALE, middle, text, "lm")
            left += width


def _dashes(places: Sequence[tuple[float, float]], on: float, off: float) -> list[list[tuple[float, float]]]:
    """A polyline cut into its dashes, the pattern running on through the corners."""
    pieces: list[list[tuple[float, float]]] = []
    travelled = 0.0
    for (x0, y0), (x1, y1) in pairwise(places):
        length = math.hypot(x1 - x0, y1 - y0)
        at = 0.0
        while at < length:
            phase = (travelled + at) % (on + off)
            far = min(length, at + (on - phase if phase < on else on + off - phase) + 1e-9)
            if phase < on:
                ends = [(x0 + (x1 - x0) * t / length, y0 + (y1 - y0) * t / length) for t in (at, far)]
                pieces.append(ends)
            at = far
        travelled += length
    return pieces
