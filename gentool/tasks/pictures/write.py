"""Pictures that a command has changed, written: the file itself, and a panel that shows them before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from gentool.data import to_uint8
from gentool.runs import pictures
from gentool.runs.atomic import atomic_write, check_apart, check_writable
from gentool.runs.samples import check_output, write_samples
from gentool.tasks.pictures.read import Pictures

SHOWN = 16
"""Pictures of the panel."""


def write_pictures(
    out: Path,
    found: Pictures,
    before: Tensor,
    after: Tensor,
    provenance: dict[str, Any],
    *,
    difference: bool = False,
    between: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Path:
    """The changed pictures (N, C, H, W), and the panel beside them; the rest as of `write_panel`."""
    write_file(out, found, after, provenance)
    return write_panel(out, pixels(before), pixels(after), difference=difference, between=between)


def write_file(out: Path, found: Pictures, x: Tensor, provenance: dict[str, Any]) -> None:
    """Pictures (N, C, H, W) made of `found`: one picture as a PNG of its own size, several as samples."""
    made = pixels(x)
    if found.single and out.suffix.lower() == ".png":
        with atomic_write(out) as scratch:
            Image.fromarray(made[0, ..., 0] if made.shape[-1] == 1 else made[0]).save(scratch, format="PNG")
    else:
        write_samples(out, made, None if found.labels is None else np.asarray(found.labels), provenance)


def pixels(x: Tensor) -> np.ndarray:
    """(N, C, H, W) in [-1, 1] -> (N, H, W, C) uint8."""
    made: np.ndarray = to_uint8(x).permute(0, 2, 3, 1).numpy()
    return made


def check_places(
    out: Path,
    source: str | None,
    *,
    single: bool,
    also: Sequence[Path | None] = (),
    pictures_beside: Sequence[str] = ("panel",),
) -> None:
    """Refuses an output that cannot be written, or that would overwrite what is read; so for what lies beside it.

    Args:
        also: further files that are read.
        pictures_beside: what is written there, as of `beside`.

    Raises:
        UserError: says which.
    """
    if not (single and out.suffix.lower() == ".png"):
        check_output(out, "image")
    check_writable(out.absolute().parent)
    for place in (out, *(beside(out, what) for what in pictures_beside)):
        check_apart(place, source, *also)


def beside(out: Path, what: str) -> Path:
    """The picture that goes with the file `out`: its panel, its label map."""
    return out.with_name(f"{out.stem}-{what}.png")


def write_panel(
    out: Path,
    before: np.ndarray,
    after: np.ndarray,
    *,
    difference: bool = False,
    between: Mapping[str, np.ndarray] = MappingProxyType({}),
    last: str = "after",
) -> Path:
    """A few of the pictures (N, H, W, C) uint8, before above after, beside the file `out`.

    Args:
        difference: a last row, |after - before| in the pictures' own units.
        between: further rows by name, between the two.
        last: the name of the row of `after`.
    """
    panel, shown = beside(out, "panel"), min(SHOWN, len(before))
    rows = {"before": before, **between, last: after}
    if difference:
        rows["difference"] = np.maximum(before, after) - np.minimum(before, after)
    rows = {name: row[:shown] for name, row in rows.items()}
    with atomic_write(panel) as scratch:
        pictures.sheet(np.concatenate(list(rows.values())), shown, tuple(rows)).save(scratch, format="PNG")
    return panel
