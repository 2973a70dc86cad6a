"""What the judges judge: sets of uint8 images, of vectors or of clouds, that can be walked more than once.

A set is walked in blocks and in order: memory does not grow with it, and figures do not depend on chance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gentool.data import DataSet
from gentool.errors import UserError

BATCH = 256
LIMIT = 60_000
"""Most images held in memory at once (to train a classifier); a larger set is thinned at random, by a fixed seed."""


class Images(Protocol):
    """A set of images of one shape, of vectors of one length, or of clouds of equally many points.

    Attributes:
        name: what the result calls the set.
        shape: (C, H, W), C = 1 or 3; (D,) for vectors; (P, 3) for clouds.
        classes: number of classes, or None for a set without labels.
        fingerprint: changes whenever an image or a label does; keys the cache.
    """

    name: str
    shape: tuple[int, ...]
    classes: int | None

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """(x uint8 (B, C, H, W) or float32 (B, D) or (B, P, 3), label int64 (B,) or None), always in the same order."""


class VectorArray:
    """Vectors (N, D) or clouds (N, P, 3) in memory, float32, as a samples file holds them.

    Args:
        labels: (N,) integers, or None.
        name: what the result calls the set.

    Raises:
        UserError: another type or shape; labels that do not match.
    """

    def __init__(
        self, vectors: np.ndarray, labels: np.ndarray | None = None, *, name: str = "samples"
    ) -> None:
        if vectors.dtype != np.float32 or vectors.ndim not in (2, 3) or 0 in vectors.shape:
            raise UserError(
                f"{vectors.dtype} {vectors.shape}, expected float32 vectors (N, D) or clouds (N, P, 3)", name
            )
        self.name = name
        self.shape: tuple[int, ...] = vectors.shape[1:]
        self._vectors = vectors
        self._labels = _checked(labels, len(vectors), name)
        self.classes = None if self._labels is None else int(self._labels.max()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of shape, values and labels."""
        digest = hashlib.sha256(repr(self._vectors.shape).encode() + self._vectors.tobytes())
        if self._labels is not None:
            digest.update(self._labels.data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._vectors)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for start in range(0, len(self), BATCH):
            rows = slice(start, start + BATCH)
            x = torch.from_numpy(self._vectors[rows].copy())
            yield x, None if self._labels is None else torch.from_numpy(self._labels[rows])


def _checked(labels: np.ndarray | None, count: int, name: str) -> np.ndarray | None:
    """Labels as int64 (count,).

    Raises:
        UserError: another shape or type, or negative ones.
    """
    if labels is None:
        return None
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"labels are {labels.dtype} of shape {labels.shape}, expected {count} integers", name)
    if labels.min() < 0:
        raise UserError("labels must not be negative", name)
    return labels.astype(np.int64)


class ImageArray:
    """Images in memory, as a samples file holds them.

    Args:
        images: uint8 (N, H, W, C), C = 1 or 3.
        labels: (N,) integers, or None.
        name: what the result calls the set.
        classes: number of classes; absent: one more than the largest label.

    Raises:
        UserError: another type, range or shape; labels that do not match.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        name: str = "samples",
        classes: int | None = None,
    ) -> None:
        if images.dtype != np.uint8:
            raise UserError(
                f"pixels are {images.dtype}, expected uint8 in 0..255 "
                "(floats in [-1, 1] become bytes by x * 127.5 + 128, clipped to 0..255)",
                name,
            )
        if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
            raise UserError(f"shape {images.shape}, expected (N, H, W, C) with C = 1 or 3 and N > 0", name)
        self.name = name
        self._images = images
        self._labels = _checked(labels, len(images), name)
        height, width, channels = images.shape[1:]
        self.shape: tuple[int, ...] = (channels, height, width)
        self.classes = classes if labels is None or classes is not None else int(labels.max()) + 1
        if labels is None:
            self.classes = None
        elif int(labels.max()) >= (self.classes or 0):
            raise UserError(
                f"label {int(labels.max())}, but there are {self.classes} classes (0 the first)", name
            )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of shape, pixels and labels."""
        digest = hashlib.sha256(repr(self._images.shape).encode())
        digest.update(np.ascontiguousarray(self._images).data)
        if self._labels is not None:
            digest.update(self._labels.data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for start in range(0, len(self), BATCH):
            rows = slice(start, start + BATCH)
            x = torch.from_numpy(self._images[rows].transpose(0, 3, 1, 2).copy())
            yield x, None if self._labels is None else torch.from_numpy(self._labels[rows])


class ImageSet:
    """A split of a data set as `Images`; `frame` is how its clouds were normalised.

    Args:
        points: of its clouds, only so many first ones are looked at; None: all.
    """

    def __init__(self, data: DataSet, name: str, points: int | None = None) -> None:
        self.frame = data.spec.frame
        self.name = name
        self.shape: tuple[int, ...] = data.spec.shape
        self._points = points if data.spec.kind == "points" else None
        if self._points is not None:
            self.shape = (min(self._points, self.shape[0]), *self.shape[1:])
        self.classes = data.spec.classes or None
        self._data = data

    @property
    def fingerprint(self) -> str:
        whole = self.shape == self._data.spec.shape
        return self._data.fingerprint if whole else f"{self._data.fingerprint}, {self.shape[0]} points"

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for start in range(0, len(self), BATCH):
            batch = self._data.take(range(start, min(start + BATCH, len(self))))
            x = batch.x if self._points is None else batch.x[:, : self._points]
            yield x, None if self.classes is None else batch.label


def gather(images: Images, limit: int = LIMIT) -> tuple[Tensor, Tensor]:
    """Pixels uint8 (N, C, H, W) and labels (N,) of a labelled set in their order, at most `limit` of them.

    Raises:
        UserError: the set has no labels.
    """
    if images.classes is None:
        raise UserError("a classifier cannot be trained on it: it has no labels", images.name)
    # At random, not every n-th: samples often take the classes in turn, and every tenth would be of one class.
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:limit]
    keep = torch.zeros(len(images), dtype=torch.bool)
    keep[chosen] = True
    pixels, labels, start = [], [], 0
    for x, label in images:
        assert label is not None
        rows = keep[start : start + len(x)]
        pixels.append(x[rows])
        labels.append(label[rows])
        start += len(x)
    return torch.cat(pixels), torch.cat(labels)


class Shaped(Protocol):
    """What a set is called, and the shape of its examples."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


def kind(images: Shaped) -> str:
    """`grayscale 28x28`, `RGB 32x32`, `vectors of length 2`, `clouds of 2048 points`."""
    if len(images.shape) == 2:
        return f"clouds of {images.shape[0]} points"
    if len(images.shape) == 1:
        return f"vectors of length {images.shape[0]}"
    channels, height, width = images.shape
    return f"{'grayscale' if channels == 1 else 'RGB'} {height}x{width}"


def check_comparable(samples: Shaped, other: Shaped) -> None:
    """Two sets can be compared only when they have one shape.

    Raises:
        UserError: names the mismatch.
    """
    if samples.shape != other.shape:
        raise UserError(
            f"are {kind(samples)}, but {other.name} is {kind(other)}: figures between them mean nothing; "
            "judge against the data set the model was trained on, read the same way",
            samples.name,
        )


def as_images(array: np.ndarray, labels: np.ndarray | None) -> Images:
    """Arrays of samples, (N, H, W, C) uint8, (N, D) or (N, P, 3), as the judges take them."""
    return ImageArray(array, labels) if array.ndim == 4 else VectorArray(array, labels)
