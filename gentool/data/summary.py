"""What a set holds, in figures: for `gentool data inspect` and model cards."""

from __future__ import annotations

from typing import Any

import torch

from gentool.data.dataset import BLOCK, DataSet
from gentool.data.pixels import to_model


def summarise(dataset: DataSet) -> dict[str, Any]:
    """Counts, range and moments of every number of the set, in one pass.

    Returns:
        `kind, shape, count, classes` ({name: how many}, empty without labels), `min, max` as stored, `mean,
        std` per channel or coordinate in the model's range (pixels in [-1, 1]), `sigma_data` (standard
        deviation of all numbers about their mean), `fingerprint`, `conversions`, `skipped` (what was
        left out as unreadable), `bytes`.
    """
    spec = dataset.spec
    width = spec.shape[0] if spec.kind == "image" else spec.shape[-1]
    total, squares = torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    low, high = float("inf"), float("-inf")
    for start in range(0, len(dataset), BLOCK):
        x = dataset.take(range(start, min(start + BLOCK, len(dataset)))).x
        low, high = min(low, x.min().item()), max(high, x.max().item())
        flat = to_model(x).double()
        flat = flat.movedim(1, -1).reshape(-1, width) if spec.kind == "image" else flat.reshape(-1, width)
        total += flat.sum(0)
        squares += flat.square().sum(0)
    each = len(dataset) * torch.Size(spec.shape).numel() / width
    mean, second = total / each, squares / each
    labels = torch.from_numpy(dataset.labels)
    counts = torch.bincount(labels[labels >= 0], minlength=spec.classes).tolist()
    return {
        "kind": spec.kind,
        "shape": list(spec.shape),
        "count": len(dataset),
        "classes": dict(zip(spec.class_names, counts)),
        "min": low,
        "max": high,
        "mean": mean.tolist(),
        "std": (second - mean.square()).clamp(min=0).sqrt().tolist(),
        "sigma_data": (second.mean() - mean.mean().square()).clamp(min=0).sqrt().item(),
        "fingerprint": dataset.fingerprint,
        "conversions": dataset.notes,
        "skipped": {fault.where: fault.message for fault in dataset.skipped},
        "bytes": dataset.nbytes,
    }
