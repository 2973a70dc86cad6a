"""Pictures that a command has changed, written: the file itself, and a panel that shows them before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from gentool.data import to_uint8
from gentool.errors import UserError
from gentool.runs import pictures
from gentool.runs.atomic import atomic_write, check_writable
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
    old, new = (to_uint8(x).permute(0, 2, 3, 1).numpy() for x in (before, after))
    if found.single and out.suffix.lower() == ".png":
        with atomic_write(out) as scratch:
            Image.fromarray(new[0, ..., 0] if new.shape[-1] == 1 else new[0]).save(scratch, format="PNG")
    else:
        write_samples(out, new, None if found.labels is None else np.asarray(found.labels), provenance)
    return write_panel(out, old, new, difference=difference, between=between)


def check_places(out: Path, source: str, *, single: bool) -> None:
    """Refuses an output that cannot be written, or that is the input itself.

    Raises:
        UserError: says which.
    """
    if not (single and out.suffix.lower() == ".png"):
        check_output(out, "image")
    check_writable(out.absolute().parent)
    if out.exists() and Path(source).exists() and out.samefile(source):
        raise UserError("is INPUT itself: name another output", str(out))


def write_panel(
    out: Path,
    before: np.ndarray,
    after: np.ndarray,
    *,
    difference: bool = False,
    between: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Path:
    """A few of the pictures (N, H, W, C) uint8, before above after, beside the file `out`.

    Args:
        difference: a last row, |after - before| in the pictures' own units.
        between: further rows by name, between the two.
    """
    panel, shown = out.with_name(f"{out.stem}-panel.png"), min(SHOWN, len(before))
    rows = {"before": before, **between, "after": after}
    if difference:
        rows["difference"] = np.maximum(before, after) - np.minimum(before, after)
    rows = {name: row[:shown] for name, row in rows.items()}
    with atomic_write(panel) as scratch:
        pictures.sheet(np.concatenate(list(rows.values())), shown, tuple(rows)).save(scratch, format="PNG")
    return panel
