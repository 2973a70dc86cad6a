"""How well a trained run reads samples and photos, and renders photos."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gentool.data import DataSet, to_model
from gentool.families.editgan.config import FromStrokes
from gentool.families.editgan.heads import mean_logits, uncertainty, worst_mean
from gentool.families.editgan.labels import stroke_labels
from gentool.families.editgan.losses import squared

if TYPE_CHECKING:
    from gentool.families.editgan.module import EditganModule

TESTED = 200
"""Samples, and real pictures, by which the model is judged."""


@torch.no_grad()
def figures(module: EditganModule, held_out: DataSet) -> dict[str, float]:
    """Of samples that were not labelled: `uncertainty`; with labels by strokes `iou-CLASS`, and `photo-iou-CLASS` of
    held-out pictures as the encoder sees them; of these `encoder-error`, the root mean square error of a pixel in
    [0, 1]."""
    view, labels = module.view, module.recipe.model.labels
    real = to_model(held_out.take(range(min(TESTED, len(held_out)))).x).to(module.device)
    codes = {"": module.codes(range(10_000, 10_000 + TESTED)), "photo-": view.encode(real)}
    read = {name: labelled(module, ws) for name, ws in codes.items()}
    found = {"uncertainty": float(worst_mean(uncertainty(read[""][1])).mean())}
    if isinstance(labels, FromStrokes):
        for prefix, (x, logits) in read.items():
            known, said = stroke_labels(x, labels.threshold), mean_logits(logits).argmax(1).cpu()
            for k, name in enumerate(module.class_names):
                either = int(((known == k) | (said == k)).sum())
                if either:
                    found[f"{prefix}iou-{name}"] = int(((known == k) & (said == k)).sum()) / either
    found["encoder-error"] = float(squared(read["photo-"][0], real).mean().sqrt())
    return found


def labelled(module: EditganModule, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures (B, C, H, W) of codes, and logits (heads, B, K, H, W)."""
    pictures, logits = [], []
    for part in codes.split(50):
        x, features = module.view.features(part)
        pictures.append(x)
        logits.append(module.model.heads(features))
    return torch.cat(pictures), torch.cat(logits, 1)
