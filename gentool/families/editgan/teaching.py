"""The labelled pictures of a recipe: samples, or photos as encoder and generator render them, and their label maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gentool.families.editgan.config import EditganModel, FromMasks, FromStrokes
from gentool.families.editgan.labels import read_masks, stroke_labels, without_specks
from gentool.families.editgan.lessons import Lessons, held_out_pixels
from gentool.families.editgan.vector import load_codes

if TYPE_CHECKING:
    from gentool.families.editgan.module import EditganModule


def lessons(module: EditganModule) -> Lessons:
    """What the heads learn from.

    Raises:
        UserError, CorruptError: masks, or photos' codes beside them, that cannot be used.
    """
    config, classes, size = module.recipe.model, len(module.class_names), module.spec.shape[1]
    if isinstance(config.labels, FromMasks):
        which, maps = read_masks(Path(config.labels.path), classes, size, module.say)
        codes = torch.cat([codes_of(module, each) for each in which])
        known = without_specks(maps, config.fewest, classes).to(module.device)
    else:
        codes = module.photos() if config.labels.of == "photos" else module.codes(range(config.labelled))

    def read(rows: Tensor, x: Tensor) -> Tensor:
        return known[rows] if isinstance(config.labels, FromMasks) else strokes(x, config, classes)

    held_out = held_out_pixels(len(codes), size, some=config.stop == "val")
    return Lessons(codes, read, held_out.to(module.device), classes)


def codes_of(module: EditganModule, which: int | Path) -> Tensor:
    """(1, styles, width) of a labelled sample, or photo."""
    if isinstance(which, int):
        return module.codes([which])
    return load_codes(which, module.digest(), (module.styles, module.width)).to(module.device)[None]


def strokes(x: Tensor, config: EditganModel, classes: int) -> Tensor:
    """Label maps (B, H, W) that pictures (B, C, H, W) themselves tell, small ones left out."""
    assert isinstance(config.labels, FromStrokes)
    found = stroke_labels(x, config.labels.threshold)
    return without_specks(found, config.fewest, classes).to(x.device)


@torch.no_grad()
def pixels(module: EditganModule) -> Tensor:
    """(K,) pixels of each class in the labelled pictures, which the user is told of."""
    taught, names = module.lessons(), module.class_names
    x = taught.codes
    everything = torch.arange(len(x), device=x.device)
    if x.dim() == 3:
        x = torch.cat([module.view.render(part) for part in x.split(50)])
    counts = torch.bincount(taught.read(everything, x).flatten(), minlength=len(names))
    told = ", ".join(f"{name}: {count}" for name, count in zip(names, counts.tolist()))
    module.say(f"{len(x)} labelled pictures, pixels by class: {told}")
    for name, count in zip(names, counts.tolist()):
        if count == 0:
            module.say(f"warning: {name} is in no labelled picture: it will never be predicted")
    return counts
