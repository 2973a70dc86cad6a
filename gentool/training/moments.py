"""What a model takes from its training data before the first step."""

from __future__ import annotations

from typing import Any

import torch

from gentool.data import to_model

LIMIT = 20_000
"""Examples looked at, evenly spread; the standard deviation is known to a fraction of a percent by then."""


def data_std(dataset: Any) -> float:
    """Standard deviation over examples and dimensions, in model space ([-1, 1] for images)."""
    stride = max(1, len(dataset) // LIMIT)
    total = torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(dataset), 512 * stride):
        indices = list(range(start, min(start + 512 * stride, len(dataset)), stride))
        x = to_model(dataset.take(indices).x).double()
        total += torch.stack([torch.tensor(float(x.numel())), x.sum(), x.square().sum()])
    count, first, second = total.tolist()
    return float(max(0.0, second / count - (first / count) ** 2) ** 0.5)
