"""Editing vectors on disk: a difference of W+ codes, and what it belongs to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gentool.errors import CorruptError, UserError
from gentool.runs.weights import load_weights, save_weights

KIND = "editgan-vector"


@dataclass(frozen=True)
class Vector:
    """Attributes:
    delta: (styles, width).
    classes: names of the edited classes.
    generator: SHA-256 of the generator's weights.
    source: the picture it was found on.
    """

    delta: Tensor
    classes: tuple[str, ...]
    generator: str
    source: str

    def save(self, path: Path) -> None:
        told = {
            "kind": KIND,
            "classes": json.dumps(self.classes),
            "generator": self.generator,
            "source": self.source,
        }
        save_weights(path, {"delta": self.delta}, told)


def load_vector(path: Path, generator: str, shape: tuple[int, int], class_names: tuple[str, ...]) -> Vector:
    """A vector for this generator.

    Raises:
        UserError: no such file, no editing vector, one of another generator or with classes that the run does not
            know.
        CorruptError: it is damaged.
    """
    if not path.is_file():
        raise UserError("is no file", str(path))
    tensors, told = load_weights(path)
    if told.get("kind") != KIND or "delta" not in tensors:
        raise UserError("is no editing vector (--save-vector writes one)", str(path))
    delta = tensors["delta"]
    if told["generator"] != generator or tuple(delta.shape) != shape:
        raise UserError(
            f"belongs to another generator ({told['generator'][:12]}, this run's is {generator[:12]})",
            str(path),
        )
    if not torch.isfinite(delta).all():
        raise CorruptError("holds NaN or infinity", str(path))
    classes = tuple(json.loads(told["classes"]))
    if unknown := [name for name in classes if name not in class_names]:
        raise UserError(f"edits {unknown[0]}, which is no class here ({', '.join(class_names)})", str(path))
    return Vector(delta, classes, told["generator"], told["source"])
