"""W+ codes on disk, of a picture or the difference of two (an editing vector), and the generator they belong to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gentool.errors import CorruptError, UserError
from gentool.runs.weights import load_weights, save_weights

KIND, CODES = "editgan-vector", "editgan-codes"


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
    delta, told = _load(
        path, KIND, "delta", "is no editing vector (--save-vector writes one)", generator, shape
    )
    classes = tuple(json.loads(told["classes"]))
    if unknown := [name for name in classes if name not in class_names]:
        raise UserError(f"edits {unknown[0]}, which is no class here ({', '.join(class_names)})", str(path))
    return Vector(delta, classes, told["generator"], told["source"])


def save_codes(path: Path, ws: Tensor, generator: str, source: str) -> None:
    """Codes (styles, width) of one picture."""
    save_weights(path, {"ws": ws}, {"kind": CODES, "generator": generator, "source": source})


def load_codes(path: Path, generator: str, shape: tuple[int, int]) -> Tensor:
    """(styles, width) of a picture, for this generator.

    Raises:
        UserError, CorruptError: as of `load_vector`.
    """
    return _load(path, CODES, "ws", "holds no codes (--save-codes writes them)", generator, shape)[0]


def _load(
    path: Path, kind: str, name: str, otherwise: str, generator: str, shape: tuple[int, int]
) -> tuple[Tensor, dict[str, str]]:
    """The tensor of this name, and the metadata.

    Args:
        otherwise: what is said of a file of another kind.
    """
    if not path.is_file():
        raise UserError("is no file", str(path))
    tensors, told = load_weights(path)
    if told.get("kind") != kind or name not in tensors:
        raise UserError(otherwise, str(path))
    if told["generator"] != generator or tuple(tensors[name].shape) != shape:
        raise UserError(
            f"belongs to another generator ({told['generator'][:12]}, this run's is {generator[:12]})",
            str(path),
        )
    if not torch.isfinite(tensors[name]).all():
        raise CorruptError("holds NaN or infinity", str(path))
    return tensors[name], told
