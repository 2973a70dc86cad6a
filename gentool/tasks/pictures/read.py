"""Pictures that a command is given: a file, a folder, arrays or a data set, as one tensor in [-1, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gentool.data import parse_source, to_model
from gentool.data.config import SETS, DataConfig, ImageConfig
from gentool.data.dataset import open_set, open_whole
from gentool.data.picture_tree import SUFFIXES
from gentool.data.pictures import decode, open_picture, rules_used
from gentool.errors import CorruptError, UserError
from gentool.runs.samples import read_arrays
from gentool.training.watching import Say, unsaid

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Pictures:
    """Pictures as they are, before they are fitted to a model.

    Attributes:
        x: (N, C, H, W) float32 in [-1, 1].
        labels: (N,) int64, -1 for none; None where there are no labels at all.
        class_names: the labels' names.
        single: whether it was one picture's file.
    """

    x: Tensor
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    name: str
    single: bool = False


def read_pictures(
    source: str,
    *,
    known: DataConfig | None = None,
    split: Split = "test",
    count: int | None = None,
    say: Say = unsaid,
) -> Pictures:
    """Reads INPUT: one picture's file, a folder, tar or zip, an .h5 or .npz, or a data set by name.

    Args:
        known: the data set as the model's recipe reads it, taken where `source` is its name.
        split: of a set that has two.
        count: the first so many alone.
        say: told of every conversion.

    Raises:
        UserError, CorruptError: nothing there, not pictures, not finite, or out of range; names the file.
    """
    if count is not None and count < 1:
        raise UserError(f"-n must be at least 1, not {count}")
    path = Path(source)
    suffix = path.suffix.lower()
    if source not in SETS and path.is_file() and suffix in SUFFIXES:
        return _one(path, say)
    if source not in SETS and path.is_file() and suffix in (".npz", ".h5", ".hdf5"):
        return _arrays(path, count, say)
    config = known if known is not None and known.name == source else parse_source(source)
    data = open_set(config, split) if source in SETS else open_whole(config, _whole(config, split))
    if data.spec.kind != "image":
        raise UserError(f"holds {data.spec.kind} data; expected pictures", source)
    for rule, times in data.notes.items():
        say(f"{source}: {times} x {rule}")
    batch = data.take(range(len(data) if count is None else min(count, len(data))))
    labels = batch.label.numpy() if data.spec.classes else None
    return Pictures(to_model(batch.x), labels, data.spec.class_names, source)


def _whole(config: DataConfig, split: Split) -> Split:
    return split if config.has_test() else "train"


def _one(path: Path, say: Say) -> Pictures:
    try:
        with Image.open(path) as picture:
            deep = picture.mode.startswith("I")
            if deep:
                pixels = np.asarray(picture, np.int64)
    except (OSError, SyntaxError, ValueError) as error:
        raise CorruptError(f"not a picture that can be read ({error})", str(path)) from None
    if deep:
        say(f"{path}: 16-bit pixels taken as they are, as k / 65535")
        return Pictures(_scaled(pixels[None, None], 65535), None, (), str(path), single=True)
    opened = open_picture(path.read_bytes(), str(path))
    channels = 1 if opened.mode in ("1", "L", "LA", "La") else 3
    for rule in rules_used(opened, channels):
        say(f"{path}: {rule}")
    x = decode(opened, str(path), channels, ImageConfig(name="images", crop="none"))
    return Pictures(to_model(torch.from_numpy(x.copy())[None]), None, (), str(path), single=True)


def _scaled(pixels: np.ndarray, most: int) -> Tensor:
    return torch.from_numpy(2 * (pixels / most) - 1).float()


def _arrays(path: Path, count: int | None, say: Say) -> Pictures:
    found = read_arrays(path)
    array, labels = found.array[:count], found.labels
    if array.ndim != 4 or array.shape[-1] not in (1, 3, 4) or len(array) == 0:
        hint = "; move the channels last" if array.ndim == 4 and array.shape[1] in (1, 3) else ""
        raise UserError(
            f"expected pictures (N, H, W, 1 or 3), found {array.shape} {array.dtype}{hint}", str(path)
        )
    if labels is not None and labels.shape != (len(found.array),):
        raise CorruptError(f"{len(found.array)} pictures but labels of shape {labels.shape}", str(path))
    if array.shape[-1] == 4:
        say(f"{path}: the fourth channel (alpha) is dropped")
        array = array[..., :3]
    x = _in_range(array, str(path), say).movedim(-1, 1).contiguous()
    names = () if labels is None else tuple(map(str, range(int(labels.max(initial=-1)) + 1)))
    return Pictures(x, None if labels is None else labels[:count], names, str(path))


def _in_range(array: np.ndarray, where: str, say: Say) -> Tensor:
    """(N, ...) of any type -> float32 in [-1, 1]."""
    if array.dtype == np.uint8:
        return to_model(torch.from_numpy(array.copy()))
    if array.dtype == np.uint16:
        say(f"{where}: 16-bit pixels taken as they are, as k / 65535")
        return _scaled(array, 65535)
    if array.dtype.kind != "f":
        raise UserError(f"pixels are {array.dtype}; expected uint8, uint16, or floats in [0, 1]", where)
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))
    if len(bad):
        raise CorruptError(f"picture {int(bad[0])} holds NaN or infinity", where)
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        hint = ""
        if -1 <= low < 0 and high <= 1:
            hint = ": they look like pixels in [-1, 1]; save (x + 1) / 2"
        elif low >= 0 and high <= 255:
            hint = ": they look like pixels in 0..255; save them as uint8"
        raise UserError(f"float pixels must lie in [0, 1], these in [{low:g}, {high:g}]{hint}", where)
    return torch.from_numpy(2 * array.astype(np.float64) - 1).float()


def fit_shape(
    x: Tensor, shape: tuple[int, ...], where: str, *, resize: bool = False, repeat_channels: bool = False
) -> Tensor:
    """Pictures (N, C, H, W) brought to a model's (C, H, W), or refused.

    Args:
        resize: bilinear, as the paper does around its 256-pixel model (align_corners false).
        repeat_channels: gray is repeated to RGB.

    Raises:
        UserError: they differ and the option was not given; the message names it.
    """
    channels, high, wide = shape
    if x.shape[1] != channels:
        if not (x.shape[1] == 1 and channels == 3):
            raise UserError("has colour, and the model was trained on gray pictures: convert it first", where)
        if not repeat_channels:
            raise UserError("is gray, and the model knows RGB: add --repeat-channels to repeat it", where)
        x = x.expand(-1, 3, -1, -1)
    if tuple(x.shape[2:]) != (high, wide):
        if not resize:
            raise UserError(
                f"is {x.shape[3]}x{x.shape[2]} pixels, and the model was trained on {wide}x{high}: add --resize",
                where,
            )
        x = resized(x, (high, wide))
    return x


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, align_corners false: the paper's rule, there and back."""
    return torch.nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)
