"""The training data as a model sees them, for what is measured before the first step."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from gentool.data import DataSet, to_model

LIMIT = 20_000
"""Examples looked at, evenly spread: moments are known to a fraction of a percent by then."""

BATCH = 512


def model_batches(dataset: DataSet) -> Iterator[Tensor]:
    """Up to `LIMIT` examples in model space ([-1, 1] for images), in batches."""
    indices = range(0, len(dataset), max(1, len(dataset) // LIMIT))
    for start in range(0, len(indices), BATCH):
        yield to_model(dataset.take(list(indices[start : start + BATCH])).x)
