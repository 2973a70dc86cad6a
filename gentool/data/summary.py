"""What a set holds, in figures: for `gentool data inspect` and model cards."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from gentool.data.dataset import BLOCK, DataSet
from gentool.data.pixels import to_model
from gentool.data.sentences import phrases
from gentool.data.spec import DataSpec


def summarise(dataset: DataSet) -> dict[str, Any]:
    """Counts, range and moments of every number of the set, in one pass.

    Returns:
        `kind, shape, count, classes` ({name: how many}, empty without labels), `min, max` as stored, `mean,
        std` per channel or coordinate in the model's range (pixels in [-1, 1]), `sigma_data` (standard
        deviation of all numbers about their mean), `fingerprint`, `conversions`, `skipped` (what was
        left out as unreadable), `bytes`. Of clouds also `frame` (how they were normalised) and `box` (the smallest,
        median and largest sides of their boxes along each axis: another axis up, or another scale, shows there).
        Where examples are described, `phrases` ({phrase: how many examples' sentences have it}) and `sentence`, the
        first example's.
    """
    spec = dataset.spec
    width = spec.shape[0] if spec.kind == "image" else spec.shape[-1]
    total, squares = torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    low, high = float("inf"), float("-inf")
    sides: list[Tensor] = []
    for start in range(0, len(dataset), BLOCK):
        x = dataset.take(range(start, min(start + BLOCK, len(dataset)))).x
        low, high = min(low, x.min().item()), max(high, x.max().item())
        if spec.kind == "points":
            sides.append(x.amax(1) - x.amin(1))
        flat = to_model(x).double()
        flat = flat.movedim(1, -1).reshape(-1, width) if spec.kind == "image" else flat.reshape(-1, width)
        total += flat.sum(0)
        squares += flat.square().sum(0)
    each = len(dataset) * torch.Size(spec.shape).numel() / width
    mean, second = total / each, squares / each
    labels = torch.from_numpy(dataset.labels)
    counts = torch.bincount(labels[labels >= 0], minlength=spec.classes).tolist()
    found = {
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
    if spec.phrases:
        said = Counter(p for text in dataset.sentences for p in phrases(text, spec.phrases, "sentences"))
        found["phrases"] = {phrase: said[phrase] for phrase in spec.phrases if said[phrase]}
        found["sentence"] = dataset.sentences[0]
    return found | _clouds(spec, torch.cat(sides)) if sides else found


def _clouds(spec: DataSpec, sides: Tensor) -> dict[str, Any]:
    """What is told of clouds alone; `sides` (N, 3) are their boxes'."""
    boxes = {"smallest": sides.amin(0), "median": sides.median(0).values, "largest": sides.amax(0)}
    return {
        "frame": None if spec.frame is None else asdict(spec.frame),
        "box": {name: side.tolist() for name, side in boxes.items()},
    }
