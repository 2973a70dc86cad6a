"""What a metric is given and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gentool.metrics.featureset import FeatureSet


@dataclass(frozen=True)
class Evidence:
    """One set of samples and what it is judged by.

    Attributes:
        samples, reference: features of the samples and of the images the model was trained on.
        held_out: features of real images that the model never saw, when there are any.
        device: where metrics that train a classifier of their own do it.
        seed: fixes subsets.
    """

    samples: FeatureSet
    reference: FeatureSet
    held_out: FeatureSet | None
    device: torch.device
    seed: int = 0


@dataclass(frozen=True)
class Judgement:
    """Figures by the names in the metric's `MetricInfo.values`, how they were made, and what to mind."""

    values: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def subset(rows: Tensor, size: int, seed: int) -> Tensor:
    """`size` rows drawn without replacement, in their order; all of them when there are no more."""
    if len(rows) <= size:
        return rows
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(rows), generator=generator)[:size].sort().values
    return rows[chosen.to(rows.device)]
