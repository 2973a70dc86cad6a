"""Shapes as clouds of equally many points, in one frame. No torch here."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gentool.data.choice import class_numbers
from gentool.data.source import Source
from gentool.data.spec import DataSpec, Fault, Frame
from gentool.errors import CorruptError, UserError

if TYPE_CHECKING:
    from gentool.data.cloud_options import CloudConfig
    from gentool.data.options import Split

FEW = "shapes with fewer points than `points`: some are repeated"
MIXED = 20.0
"""Boxes of one set whose diagonals differ by more than this factor are worth a notice."""


def random_of(*parts: int | str) -> np.random.Generator:
    """A generator keyed by the parts, the same for ever."""
    text = "\x1f".join(map(str, parts))
    key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))


@dataclass(frozen=True)
class Extent:
    """Where the points of some shapes lie.

    Attributes:
        centre: (3,) their mean.
        square: the mean of their squared coordinates, of all three axes together.
        sizes: (n,) how many points are stored of each shape; empty where they are drawn without end.
        diagonals: (n,) of the shapes' boxes; empty where all shapes fill one.
    """

    centre: np.ndarray
    square: float
    sizes: np.ndarray
    diagonals: np.ndarray


@dataclass(eq=False)
class Shapes(ABC):
    """The shapes of one split, by number.

    Attributes:
        where: the file or folder, for messages.
        names: of each shape, what messages call it (its file).
        labels: (N,) int64, -1 for none.
        class_names: the classes.
        notes, skipped: as of `Source`.
    """

    surface: ClassVar[bool] = False
    """Whether points are drawn from a surface, as many as are asked for, instead of chosen among stored ones."""
    phrases: ClassVar[tuple[str, ...]] = ()
    """What `sentence` is made of; empty where shapes are not described."""

    where: str
    names: list[str]
    labels: np.ndarray
    class_names: tuple[str, ...]
    notes: dict[str, int] = field(default_factory=dict)
    skipped: tuple[Fault, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_normals(self) -> bool:
        """Whether `oriented` can be asked."""
        return False

    def oriented(self, i: int, count: int, view: int | None) -> np.ndarray:
        """(count, 6) float32: the points of `draw`, each with the unit outward normal of the surface there.

        Raises:
            CorruptError: the normals cannot be read, or do not fit the points.
        """
        raise NotImplementedError

    def sentence(self, i: int) -> str:
        """What is to be said of shape i, where there are `phrases`."""
        raise NotImplementedError

    @abstractmethod
    def pool(self, i: int) -> np.ndarray:
        """(P, 3) float32: what is stored of shape i, or a fixed dense draw from its surface; the statistics' base.

        Raises:
            CorruptError: it cannot be read.
        """

    def extent(self, chosen: np.ndarray) -> Extent:
        """Where the points of the shapes with these numbers lie, by their pools; raises as `pool`."""
        total, squares, sizes, diagonals = np.zeros(3), 0.0, [], []
        for i in chosen:
            pool = self.pool(int(i)).astype(np.float64)
            total += pool.sum(0)
            squares += float(np.square(pool).sum())
            sizes.append(len(pool))
            diagonals.append(float(np.linalg.norm(np.ptp(pool, axis=0))))
        size = sum(sizes)
        stored = np.array([] if self.surface else sizes)
        return Extent(total / size, squares / (3 * size), stored, np.array(diagonals))

    def content(self) -> Iterator[np.ndarray]:
        """What the shapes are made of, for the fingerprint: little-endian arrays."""
        for i in range(len(self)):
            yield np.ascontiguousarray(self.pool(i), "<f4")

    def drawn_from(self, i: int, view: int | None) -> np.ndarray:
        """The points that `draw` chooses among."""
        return self.pool(i)

    def draw(self, i: int, count: int, view: int | None) -> np.ndarray:
        """(count, 3) float32 points of shape i.

        Args:
            view: which of the random draws; None is the one that tests use: the first points, as they are stored.
        """
        pool = self.drawn_from(i, view)
        return pool[chosen_points(len(pool), i, count, view)]


def chosen_points(size: int, i: int, count: int, view: int | None) -> np.ndarray:
    """Which of the `size` stored points of shape i a draw takes, (count,): some twice where there are too few."""
    random = random_of("points", i, -1 if view is None else view)
    chosen = np.arange(size) if view is None else random.permutation(size)
    missing = count - size
    if missing > 0:
        chosen = np.concatenate([chosen, random.integers(0, size, missing)])
    return chosen[:count]


def checked(points: np.ndarray, where: str) -> np.ndarray:
    """Points (P, 3) of any float type as float32.

    Raises:
        CorruptError: another shape, no points, NaN or infinity, or all points in one place.
    """
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0 or points.dtype.kind != "f":
        raise CorruptError(f"expected points (P, 3) of floats, found {points.shape} {points.dtype}", where)
    points = np.ascontiguousarray(points, np.float32)
    if not np.isfinite(points).all():
        raise CorruptError(f"point {int(np.argmin(np.isfinite(points).all(1)))} holds NaN or infinity", where)
    if not np.ptp(points, axis=0).any():
        raise CorruptError("all its points lie in one place", where)
    return points


def upright(points: np.ndarray, up: str) -> np.ndarray:
    """Points (..., 3) turned so that the axis `up` of the files points along y."""
    return points if up == "y" else np.stack([points[..., 0], points[..., 2], -points[..., 1]], -1)


def boxed(points: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Points shifted and scaled so that the box of `pool` is centred and its longest side is [-1, 1]."""
    low, high = pool.min(0), pool.max(0)
    return (points - (low + high) / 2) / ((high - low).max() / 2)


class CloudSource(Source):
    """Clouds drawn from shapes and normalised; every shape is read once at the start, so that faults show there.

    Args:
        frame: of the training shapes, for a test part; None measures it here.

    Raises:
        CorruptError: a shape that cannot be read; names its file.
        UserError: there are none, or no normals where they are asked for.
    """

    def __init__(self, shapes: Shapes, config: CloudConfig, split: Split, frame: Frame | None = None) -> None:
        if len(shapes) == 0:
            raise UserError(f"has no shapes for {split!r}", shapes.where)
        if config.normals and not shapes.has_normals:
            raise UserError("its shapes have no normals: leave out data.normals", shapes.where)
        self.shapes, self.points, self.train = shapes, config.points, split == "train"
        self.views = config.views if self.train else 1
        counted = np.ones(len(shapes), bool)
        if config.classes is not None:
            numbers = class_numbers(config.classes, shapes.class_names, shapes.where)
            counted = np.isin(shapes.labels, numbers)
        whole = config.normalise == "global"
        measured = self._measure(counted, config.points, whole)
        self.frame = frame or (measured if whole else Frame(config.normalise))
        names = shapes.class_names
        self.normals = config.normals
        width = 6 if config.normals else 3
        spec = DataSpec("points", (config.points, width), len(names), names, self.frame, shapes.phrases)
        labels = np.repeat(shapes.labels, self.views)
        super().__init__(shapes.where, spec, labels, self.notes, shapes.skipped)

    def _measure(self, counted: np.ndarray, points: int, whole: bool) -> Frame:
        """The frame `global` of the shapes that are counted; notes what is odd about them."""
        self.notes = dict(self.shapes.notes)
        if not counted.any():
            raise UserError("no shapes of these classes", self.shapes.where)
        extent = self.shapes.extent(np.flatnonzero(counted))
        if few := int((extent.sizes < points).sum()):
            self.notes[FEW] = few
        if whole and len(extent.diagonals):
            ratio = extent.diagonals.max() / extent.diagonals.min()
            if ratio > MIXED:
                said = f"shapes of very different size (up to {ratio:.0f} times): normalise: shape-box"
                self.notes[said] = 1
        # One deviation of all coordinates about their one mean, as PointFlow has it: shapes keep their proportions.
        std = np.sqrt(extent.square - float(extent.centre.mean()) ** 2)
        x, y, z = map(float, extent.centre)
        return Frame("global", (x, y, z), float(std))

    def read(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *self.spec.shape), np.float32)
        draw = self.shapes.oriented if self.normals else self.shapes.draw
        for slot, row in zip(out, rows):
            i, view = divmod(int(row), self.views)
            drawn = draw(i, self.points, view if self.train else None)
            cloud = drawn[:, :3]
            if self.frame.mode == "shape-box":
                cloud = boxed(cloud, self.shapes.pool(i))
            # shapes keep their proportions, so that normals stay as they are
            slot[:, :3] = (cloud - np.array(self.frame.centre)) / self.frame.scale
            slot[:, 3:] = drawn[:, 3:]
        return out

    def sentence(self, row: int) -> str:
        return self.shapes.sentence(row // self.views)

    def digest(self) -> str:
        total = hashlib.sha256(repr(self.frame).encode())
        for part in self.shapes.content():
            total.update(part.data)
        total.update(np.ascontiguousarray(self.labels, "<i8").data)
        return total.hexdigest()


def shape_faults(shapes: Shapes) -> Iterator[Fault]:
    """Every shape that cannot be read, and those left out."""
    yield from shapes.skipped
    for i in range(len(shapes)):
        try:
            shapes.pool(i)
        except CorruptError as error:
            yield Fault(error.where or shapes.names[i], error.message)
