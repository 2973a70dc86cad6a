"""Label maps of a generator's samples, and of photos that it renders: told by the picture itself, or painted."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from gentool.errors import CorruptError, UserError

FEW = 5
"""Labelled samples below which a warning is due."""


def stroke_labels(x: Tensor, threshold: float = 0.0) -> Tensor:
    """(B, H, W) int64 on the CPU: 0 outside, 1 stroke, 2 hole, of pictures (B, C, H, W) in [-1, 1].

    A hole is dark and not connected, by edges, to the border.
    """
    stroke = x.detach().mean(1).cpu().numpy() > threshold
    found = np.zeros(stroke.shape, np.int64)
    for i, ink in enumerate(stroke):
        found[i][ndimage.binary_fill_holes(ink)] = 2
        found[i][ink] = 1
    return torch.from_numpy(found)


def without_specks(labels: Tensor, fewest: int, classes: int) -> Tensor:
    """Label maps (B, H, W) in which a class of fewer pixels than `fewest` in a map is background there."""
    flat = labels.flatten(1)
    counts = torch.nn.functional.one_hot(flat, classes).sum(1)
    return torch.where(counts.gather(1, flat) < fewest, 0, flat).view_as(labels)


def read_label_map(path: Path, classes: int) -> Tensor:
    """(H, W) int64 from a picture whose pixels' values (gray, or places in its palette) are classes.

    Raises:
        UserError: a colour picture, or a value that is no class; tells it and how many pixels have it.
        CorruptError: no picture.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("P", "L", "1", "I", "I;16"):
                raise UserError(
                    f"is a colour picture ({picture.mode}): expected one of a palette, or gray, whose pixels' values "
                    f"are the classes 0 to {classes - 1}",
                    str(path),
                )
            pixels = np.asarray(picture).astype(np.int64)
    except (OSError, SyntaxError, ValueError) as error:
        raise CorruptError(f"not a picture that can be read ({error})", str(path)) from None
    bad = pixels[(pixels < 0) | (pixels >= classes)]
    if len(bad):
        values, counts = np.unique(bad, return_counts=True)
        raise UserError(
            f"value {values[0]} ({counts[0]} pixels) is no class: there are 0 to {classes - 1}", str(path)
        )
    return torch.from_numpy(pixels)


def fit_map(labels: Tensor, size: tuple[int, int], where: str) -> Tensor:
    """A label map (H, W) at a picture's size: nearest neighbours, where the aspect is the same.

    Raises:
        UserError: it is not.
    """
    if tuple(labels.shape) == size:
        return labels
    if labels.shape[0] * size[1] != labels.shape[1] * size[0]:
        raise UserError(
            f"is {labels.shape[1]}x{labels.shape[0]}, and the picture {size[1]}x{size[0]}: another aspect",
            where,
        )
    return torch.nn.functional.interpolate(labels[None, None].float(), size, mode="nearest-exact")[
        0, 0
    ].long()


def read_masks(
    folder: Path, classes: int, size: int, say: Callable[[str], None]
) -> tuple[list[int | Path], Tensor]:
    """Numbers of samples, or files of photos' codes, and their label maps (N, size, size).

    A mask with codes beside it (photo.png, photo.safetensors) is of that photo as the generator renders it; without,
    the number at the end of its name says of which sample it is.

    Raises:
        UserError: no folder, no masks, or one without codes whose name has no number or that is there twice.
    """
    if not folder.is_dir():
        raise UserError("is no folder", str(folder))
    found: dict[int | Path, Tensor] = {}
    for path in sorted(folder.glob("*.png")):
        codes = path.with_suffix(".safetensors")
        index: int | Path = codes
        if not codes.is_file():
            number = re.search(r"(\d+)$", path.stem)
            if number is None:
                raise UserError(
                    f"expected the number of a sample as its name (7.png), or a photo's codes beside it ({codes.name})",
                    str(path),
                )
            index = int(number[1])
        if index in found:
            raise UserError(f"is a second mask of sample {index}", str(path))
        found[index] = fit_map(read_label_map(path, classes), (size, size), str(path))
    if not found:
        raise UserError("holds no masks (.png)", str(folder))
    if len(found) < FEW:
        say(f"warning: {len(found)} labelled samples; the published figure is 16 to 30")
    return list(found), torch.stack(list(found.values()))


def write_label_map(path: Path, labels: Tensor, classes: int) -> None:
    """A label map (H, W) as a PNG of a palette, to be looked at and repainted."""
    picture = Image.fromarray(labels.cpu().numpy().astype(np.uint8)).convert("P")
    picture.putpalette(palette(classes))
    picture.save(path, format="PNG")


def palette(classes: int) -> list[int]:
    """Red, green, blue of each class, far apart: bits of the class's number, dealt out to the three from the top."""
    found = []
    for k in range(classes):
        colour = [0, 0, 0]
        for bit in range(8):
            colour[bit % 3] |= (k >> bit & 1) << (7 - bit // 3)
        found += colour
    return found


def painted(labels: Tensor, classes: int) -> np.ndarray:
    """(B, H, W, 3) uint8 of label maps, in the colours of `palette`."""
    return np.asarray(palette(classes), np.uint8).reshape(-1, 3)[labels.cpu().numpy()]
