"""Airplanes, chairs and tables by parameters: the shapes of the set `shapes`. y is up; no torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from gentool.data.clouds import Shapes, random_of
from gentool.data.sentences import sentence
from gentool.data.sets.shapes import PHRASES
from gentool.data.solids import Solid, beam, box, frustum, mirrored

POOL = 512
"""Points of the fixed draw that the set's statistics are measured on."""


class Dice:
    """Uniform draws, as the ranges below are written.

    Attributes:
        attributes: what came of the draws that have a name, for the shape's sentence.
    """

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.attributes: dict[str, str] = {}

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.random.random())

    def one_of(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return int(self.random.integers(low, high + 1))

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def kind(self, **shares: float) -> str:
        """One of the names, by their shares, which sum to 1."""
        names = list(shares)
        return names[
            min(int(np.searchsorted(np.cumsum(list(shares.values())), self.random.random())), len(names) - 1)
        ]


Parts = list[np.ndarray]


def chair(dice: Dice) -> Parts:
    """Seat, legs, back, arms."""
    wide, deep = dice.between(0.4, 0.6), dice.between(0.4, 0.6)
    high, thick = dice.between(0.35, 0.55), dice.between(0.03, 0.09)
    disc = dice.chance(0.3)
    dice.attributes["seat"] = "round" if disc else "rectangular"
    if disc:
        parts = [frustum((0, high - thick, 0), (0, high, 0), wide / 2, wide / 2, 24)]
        deep = wide
    else:
        parts = [box((0, high - thick / 2, 0), (wide, thick, deep))]
    # Legs stand within a round seat.
    parts += _chair_legs(dice, wide * (0.68 if disc else 1), deep * (0.68 if disc else 1), high - thick / 2)
    back = dice.kind(none=0.12, solid=0.4, slats=0.28, bars=0.2)
    said = {"none": "no", "solid": "solid", "slats": "slatted", "bars": "barred"}
    dice.attributes |= {"back": said[back], "arms": "no"}
    if back != "none":
        parts += _chair_back(dice, back, wide * (0.7 if disc else 1), deep * (0.9 if disc else 1), high)
        if dice.chance(0.35):
            dice.attributes["arms"] = "two"
            parts += _arms(dice, wide, deep, high)
    return parts


def _chair_legs(dice: Dice, wide: float, deep: float, top: float) -> Parts:
    kind = dice.kind(four=0.6, pedestal=0.25, sled=0.15)
    dice.attributes |= {"legs": kind, "stretchers": "no"}
    radius = dice.between(0.014, 0.03)
    if kind == "four":
        return _four_legs(dice, wide, deep, top, radius, radius * dice.between(0.5, 1), 0.3, 0.15)
    if kind == "pedestal":
        feet, reach, foot = dice.one_of(3, 5), 0.45 * wide, dice.between(0.02, 0.035)
        parts = [frustum((0, foot, 0), (0, top, 0), 1.3 * radius, 1.3 * radius)]
        angles = 2 * np.pi * np.arange(feet) / feet
        return parts + [
            beam((0, foot, 0), (reach * np.sin(a), foot / 2, reach * np.cos(a)), foot) for a in angles
        ]
    x, z, bar = 0.45 * wide, 0.45 * deep, 1.4 * radius
    side = [
        box((x, bar / 2, 0), (bar, bar, 2 * z)),
        beam((x, bar / 2, z), (x, top, z), bar),
        beam((x, bar / 2, -z), (x, top, -z), bar),
    ]
    return side + [mirrored(part, 0) for part in side]


def _four_legs(
    dice: Dice, wide: float, deep: float, top: float, radius: float, foot: float, crossed: float, splay: float
) -> Parts:
    """Four legs, leaning outwards by up to `splay`; bars between them with probability `crossed`."""
    x, z = wide / 2 - 1.5 * radius, deep / 2 - 1.5 * radius
    out, sides = dice.between(0, splay) * top, 4 if dice.chance(0.4) else 12
    legs = [
        frustum((sx * x, top, sz * z), (sx * (x + out), 0, sz * (z + out)), radius, foot, sides)
        for sx in (-1, 1)
        for sz in (-1, 1)
    ]
    if dice.chance(crossed):
        dice.attributes["stretchers"] = "three"
        share = dice.between(0.2, 0.5)
        low, at = top * share, out * (1 - share)
        thin = 0.8 * radius
        bars = [beam((sx * (x + at), low, -z - at), (sx * (x + at), low, z + at), thin) for sx in (-1, 1)]
        return [*legs, *bars, beam((-x - at, low, 0), (x + at, low, 0), thin)]
    return legs


def _chair_back(dice: Dice, kind: str, wide: float, deep: float, seat: float) -> Parts:
    """Behind the seat, leaning back by up to 0.25 radians."""
    high, tilt = dice.between(0.3, 0.65), np.tan(dice.between(0, 0.25))
    thick = dice.between(0.02, 0.05)
    z = -deep / 2 + thick / 2

    def slab(left: float, right: float, low: float, top: float) -> np.ndarray:
        part = box(((left + right) / 2, seat + (low + top) / 2, z), (right - left, top - low, thick))
        part[:, 2] -= tilt * (part[:, 1] - seat)
        return part

    if kind == "solid":
        return [slab(-wide / 2, wide / 2, -0.02, high)]
    post = 0.08 * wide
    posts = [slab(-wide / 2, -wide / 2 + post, -0.02, high), slab(wide / 2 - post, wide / 2, -0.02, high)]
    if kind == "slats":
        count = dice.one_of(2, 5)
        width = high / count * dice.between(0.3, 0.6)
        tops = high - np.arange(count) * high / count
        return posts + [slab(-wide / 2, wide / 2, top - width, top) for top in tops]
    places = np.linspace(-wide / 2, wide / 2, dice.one_of(3, 7) + 2)[1:-1]
    bars = [slab(x - 0.015, x + 0.015, -0.02, high) for x in places]
    return [*posts, *bars, slab(-wide / 2, wide / 2, high - 0.06, high)]


def _arms(dice: Dice, wide: float, deep: float, seat: float) -> Parts:
    high, bar = dice.between(0.15, 0.25), dice.between(0.025, 0.05)
    x, z = wide / 2 - bar / 2, 0.35 * deep
    side = [
        box((x, seat + high, -0.05 * deep), (bar, bar, 0.8 * deep)),
        beam((x, seat - 0.02, z), (x, seat + high, z), 0.8 * bar),
    ]
    return side + [mirrored(part, 0) for part in side]


def table(dice: Dice) -> Parts:
    """Top and legs."""
    wide, deep = dice.between(0.6, 1.2), dice.between(0.4, 0.8)
    high, thick = dice.between(0.35, 0.8), dice.between(0.02, 0.08)
    disc = dice.chance(0.35)
    if disc:
        radius = (wide + deep) / 4
        parts = [frustum((0, high - thick, 0), (0, high, 0), radius, radius, 32)]
        wide = deep = 1.4 * radius
    else:
        parts = [box((0, high - thick / 2, 0), (wide, thick, deep))]
    top, kind = high - thick / 2, dice.kind(four=0.55, pedestal=0.25, trestle=0.2)
    dice.attributes |= {"top": "round" if disc else "rectangular", "legs": kind, "shelf": "no"}
    if kind == "four":
        inset, radius = dice.between(0.75, 1), dice.between(0.015, 0.045)
        parts += _four_legs(dice, inset * wide, inset * deep, top, radius, radius, 0, 0.1)
        if dice.chance(0.3):
            dice.attributes["shelf"] = "one"
            parts.append(
                box((0, top * dice.between(0.2, 0.5), 0), (0.9 * inset * wide, 0.03, 0.9 * inset * deep))
            )
    elif kind == "pedestal":
        radius, foot = dice.between(0.03, 0.08), dice.between(0.3, 0.5) * deep
        parts.append(frustum((0, 0.02, 0), (0, top, 0), radius, radius))
        parts.append(frustum((0, 0, 0), (0, 0.04, 0), foot, 0.8 * foot, 24))
    else:
        x, bar = 0.35 * wide, dice.between(0.03, 0.06)
        for side in (-x, x):
            parts.append(beam((side, 0, -0.4 * deep), (side, top, -0.1 * deep), bar))
            parts.append(beam((side, 0, 0.4 * deep), (side, top, 0.1 * deep), bar))
        parts.append(beam((-x, 0.4 * top, 0), (x, 0.4 * top, 0), bar))
        parts += [
            beam((side, 0.4 * top, -0.28 * deep), (side, 0.4 * top, 0.28 * deep), bar) for side in (-x, x)
        ]
    return parts


def airplane(dice: Dice) -> Parts:
    """Fuselage along x, nose at +x; wings along z."""
    radius, nose, tail = dice.between(0.045, 0.09), dice.between(0.1, 0.2), dice.between(0.25, 0.4)
    front, rear = 0.5 - nose, -0.5 + tail
    parts = [
        frustum((front, 0, 0), (0.5, -0.2 * radius, 0), radius, 0.25 * radius),
        frustum((rear, 0, 0), (front, 0, 0), radius, radius),
        frustum((rear, 0, 0), (-0.5, 0.5 * radius, 0), radius, 0.2 * radius),
    ]
    span, chord = dice.between(0.35, 0.6), dice.between(0.14, 0.3)
    place = dice.kind(low=0.45, mid=0.3, high=0.25)
    height = {"low": -0.6, "mid": 0.0, "high": 0.7}[place] * radius
    at, sweep, rise = dice.between(-0.05, 0.15), dice.between(-0.05, 0.5), dice.between(-0.03, 0.15)
    wing = _wing((at, height, 0), span, chord, dice.between(0.2, 0.8), sweep, rise)
    parts += [wing, mirrored(wing, 2)]
    fin = dice.between(0.1, 0.22)
    small = dice.between(0.08, 0.13)
    root = (-0.5 + 0.6 * small, 0.5 * radius, 0.0)
    upright = _wing((0, 0, 0), fin, 1.2 * small, 0.6, 0.5, 0)[:, [0, 2, 1]]
    parts.append(upright + np.array(root))
    # A T-tail sits on top of the fin, which leans back by half its height.
    raised = dice.chance(0.3)
    base = (root[0] - 0.5 * fin, root[1] + 0.97 * fin, 0.0) if raised else root
    plane = _wing(base, dice.between(0.1, 0.22), small, 0.6, 0.3, 0)
    parts += [plane, mirrored(plane, 2)]
    engines = dice.kind(no=0.25, two=0.5, four=0.25)
    dice.attributes |= {"wings": place, "tailplane": "high" if raised else "low", "engines": engines}
    size, length = dice.between(0.022, 0.04), dice.between(0.08, 0.14)
    for share in (0.35, 0.65)[: ("no", "two", "four").index(engines)]:
        x, y, z = at - sweep * share * span + chord / 4, height + rise * share * span - size, share * span
        engine = frustum((x - length / 2, y, z), (x + length / 2, y, z), 0.8 * size, size)
        parts += [engine, mirrored(engine, 2)]
    return parts


def _wing(
    root: tuple[float, float, float], span: float, chord: float, taper: float, sweep: float, rise: float
) -> np.ndarray:
    """A slab along +z from its root chord to its tip, which lies `sweep` spans behind and `rise` spans above."""
    thick = 0.1 * chord
    tip = np.array(root) + span * np.array([-sweep, rise, 1])
    return np.concatenate([_chord(np.array(root), chord, thick), _chord(tip, chord * taper, thick * taper)])


def _chord(centre: np.ndarray, length: float, thick: float) -> np.ndarray:
    offsets = np.array([[-1, -1, 0], [-1, 1, 0], [1, -1, 0], [1, 1, 0]]) / 2
    return centre + offsets * np.array([length, thick, 0])


KINDS: dict[str, Callable[[Dice], Parts]] = {"airplane": airplane, "chair": chair, "table": table}


@dataclass(eq=False)
class MadeShapes(Shapes):
    """Shape i of a split is the same for ever, and no split has one of another's."""

    surface: ClassVar[bool] = True
    phrases: ClassVar[tuple[str, ...]] = PHRASES

    split: str = "train"
    solids: dict[int, Solid] = field(default_factory=dict)

    @classmethod
    def of(cls, count: int, split: str) -> MadeShapes:
        """`count` shapes of each class, the classes in turn."""
        names = tuple(KINDS)
        labels = np.arange(count * len(names)) % len(names)
        listed = [f"{split} {names[label]} {i // len(names)}" for i, label in enumerate(labels)]
        return cls("shapes", listed, labels, names, split=split)

    def solid(self, i: int) -> Solid:
        """Shape i, made when it is first asked for."""
        if i not in self.solids:
            self.solids[i] = Solid.of(self._made(i)[0])
        return self.solids[i]

    def sentence(self, i: int) -> str:
        return sentence(self.class_names[self.labels[i]], self._made(i)[1].attributes)

    def _made(self, i: int) -> tuple[Parts, Dice]:
        dice = Dice(random_of(self.names[i]))
        return KINDS[self.class_names[self.labels[i]]](dice), dice

    def pool(self, i: int) -> np.ndarray:
        return self.solid(i).draw(POOL, random_of(self.names[i], "pool"))

    @property
    def has_normals(self) -> bool:
        return True

    def draw(self, i: int, count: int, view: int | None) -> np.ndarray:
        return self.oriented(i, count, view)[:, :3]

    def oriented(self, i: int, count: int, view: int | None) -> np.ndarray:
        return self.solid(i).oriented(count, random_of(self.names[i], -1 if view is None else view))
