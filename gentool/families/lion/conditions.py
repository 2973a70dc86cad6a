"""Vectors that examples and samples are conditioned on, from files."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gentool.errors import UserError
from gentool.runs.samples import read_arrays


def read_vectors(path: str, dim: int, where: str) -> Tensor:
    """(N, dim) float32.

    Args:
        where: the recipe's key, for messages.

    Raises:
        UserError: no such file, or other numbers than `dim` finite ones a row. CorruptError: it cannot be read.
    """
    found = read_arrays(path).array
    if found.ndim != 2 or found.shape[1] != dim or found.dtype.kind != "f":
        raise UserError(
            f"{path} holds {found.dtype} of shape {found.shape}; expected rows of {dim} floats (model.vectors.dim)",
            where,
        )
    if bad := np.flatnonzero(~np.isfinite(found).all(1)).tolist():
        raise UserError(f"{path}: row {bad[0]} holds NaN or infinity", where)
    return torch.from_numpy(found.astype(np.float32))
