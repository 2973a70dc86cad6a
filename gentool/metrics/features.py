"""Feature extractors: the eyes of the judges. A figure means something only beside the extractor's name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from gentool.data import to_model
from gentool.errors import UserError
from gentool.metrics.cache import Cache
from gentool.metrics.catalog import EXTRACTORS
from gentool.metrics.images import Images
from gentool.registry import resolve

if TYPE_CHECKING:
    from gentool.metrics.classifier import OwnClassifier


@dataclass(frozen=True)
class Workshop:
    """What extractors are made with.

    Attributes:
        cache: where trained classifiers are kept.
        device: where networks run.
        inception: a safetensors file of FID Inception V3 weights.
        classifier: one that the user trained, for the extractor `classifier`; None: one is trained on the reference.
        held_out: real images to say how good that one is.
    """

    cache: Cache
    device: torch.device
    inception: Path | None = None
    classifier: OwnClassifier | None = None
    held_out: Images | None = None


class Extractor(Protocol):
    """Turns images into features.

    Attributes:
        name: as in the catalogue; of a classifier that the user trained with its digest.
        dim: features per image, d.
        device: where its features are.
        preprocessing: what is done to uint8 pixels, in words; part of every result.
        identity: changes whenever a feature could; keys the cache.
        note: what the result should say of the extractor itself (an accuracy, the weights' hash), or "".
    """

    name: str
    dim: int
    device: torch.device
    preprocessing: str
    identity: str
    note: str

    def __call__(self, x: Tensor, classify: bool) -> tuple[Tensor, Tensor | None]:
        """Features (B, d) of uint8 x (B, C, H, W); when `classify`, logits (B, K) too if it has them."""


def make_extractor(name: str, reference: Images, workshop: Workshop) -> Extractor:
    """The extractor of that name, made for this reference set.

    Raises:
        UserError: an unknown name, or something the extractor needs is missing.
    """
    return resolve(EXTRACTORS.get(name).target)(reference, workshop)


class Values:
    """Vectors as they are."""

    name = "values"
    preprocessing = "none"
    note = ""

    def __init__(self, reference: Images, workshop: Workshop) -> None:
        if len(reference.shape) != 1:
            raise UserError(
                "the extractor 'values' is for vectors; use pixels for images, clouds for clouds of points",
                reference.name,
            )
        self.device = workshop.device
        self.dim = reference.shape[0]
        self.identity = f"values-1 {self.dim}"

    def __call__(self, x: Tensor, classify: bool) -> tuple[Tensor, None]:
        return x.to(self.device), None


def image_shape(reference: Images, extractor: str) -> tuple[int, int, int]:
    """(C, H, W) of a set of images.

    Raises:
        UserError: it holds vectors or clouds.
    """
    if len(reference.shape) != 3:
        other = "values for vectors" if len(reference.shape) == 1 else "clouds for clouds of points"
        raise UserError(f"the extractor {extractor!r} is for images; use {other}", reference.name)
    channels, height, width = reference.shape
    return channels, height, width


class Pixels:
    """Pixels in [-1, 1], averaged down to 32 x 32 at most so that a covariance stays affordable."""

    name = "pixels"
    side = 32
    note = ""

    def __init__(self, reference: Images, workshop: Workshop) -> None:
        channels, height, width = image_shape(reference, self.name)
        self._size = (min(height, self.side), min(width, self.side))
        self.device = workshop.device
        self.dim = channels * self._size[0] * self._size[1]
        self.preprocessing = "x / 127.5 - 1"
        if self._size != (height, width):
            self.preprocessing += f", averaged down to {self._size[0]}x{self._size[1]}"
        self.identity = f"pixels-1 {channels}x{self._size[0]}x{self._size[1]}"

    def __call__(self, x: Tensor, classify: bool) -> tuple[Tensor, None]:
        return F.adaptive_avg_pool2d(to_model(x.to(self.device)), self._size).flatten(1), None
