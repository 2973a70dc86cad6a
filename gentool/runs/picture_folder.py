"""Samples as a folder of PNGs, with `dataset.json` (labels, as EDM packs them) and `provenance.json`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from gentool.errors import CorruptError, UserError
from gentool.runs.atomic import plain_failures, sync, temporary


def write_folder(
    path: Path, images: np.ndarray, labels: np.ndarray | None, provenance: dict[str, Any]
) -> None:
    """Writes (N, H, W, C) uint8 into a new folder, which then takes the place of an older one."""
    scratch = temporary(path)
    with plain_failures(path):
        try:
            scratch.mkdir(parents=True)
            names = [f"{i:06d}.png" for i in range(len(images))]
            for name, pixels in zip(names, images):
                Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(scratch / name)
            marks = None if labels is None else [[name, int(k)] for name, k in zip(names, labels)]
            (scratch / "dataset.json").write_text(json.dumps({"labels": marks}))
            (scratch / "provenance.json").write_text(
                json.dumps(provenance, indent=2, ensure_ascii=False), "utf-8"
            )
            for file in scratch.iterdir():
                sync(file)
            old = temporary(path)
            if path.exists():
                path.rename(old)
            scratch.rename(path)
            shutil.rmtree(old, ignore_errors=True)
            sync(path.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def read_folder(path: Path) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Reads back (N, H, W, C) uint8, labels (N,) or None, provenance; any folder of PNGs of one size will do.

    Raises:
        UserError: no PNG files in there.
        CorruptError: one that cannot be read or is not like the others; labels that do not fit.
    """
    names = sorted(p for p in path.iterdir() if p.suffix.lower() == ".png")
    if not names:
        raise UserError("holds no PNG files", str(path))
    pictures = []
    for name in names:
        try:
            with Image.open(name) as picture:
                if picture.mode not in ("L", "RGB"):
                    raise CorruptError(f"expected 8-bit gray or RGB, found mode {picture.mode}", str(name))
                pixels = np.asarray(picture)
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise CorruptError(f"not a readable PNG ({error})", str(name)) from error
        pictures.append(pixels if pixels.ndim == 3 else pixels[..., None])
        if pictures[-1].shape != pictures[0].shape:
            raise CorruptError(f"is {pictures[-1].shape}, others are {pictures[0].shape}", str(name))
    try:
        marks = (
            json.loads((path / "dataset.json").read_text())["labels"]
            if (path / "dataset.json").exists()
            else None
        )
        note = (
            json.loads((path / "provenance.json").read_text("utf-8"))
            if (path / "provenance.json").exists()
            else {}
        )
        by_name = dict(marks or ())
        labels = None if marks is None else np.array([by_name[name.name] for name in names], np.int64)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(
            f"dataset.json or provenance.json does not fit the pictures ({error})", str(path)
        ) from error
    return np.stack(pictures), labels, note
