"""Vectors that examples and samples are conditioned on, from files or sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gentool.data.sentences import phrases
from gentool.errors import UserError
from gentool.families.lion.config import LionModel, LionSample
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


def bags(sentences: Sequence[str], known: Sequence[str], where: str) -> Tensor:
    """(N, len(known)) float32: 1 where a sentence has the phrase, else 0.

    Raises:
        UserError: as `phrases`.
    """
    said = [set(phrases(text, known, where)) for text in sentences]
    return torch.tensor([[float(phrase in told) for phrase in known] for told in said])


def asked(config: LionModel, settings: LionSample, known: Sequence[str]) -> Tensor | None:
    """(N, D) the vectors to sample by, of a file or of sentences; None where the priors are told none.

    Args:
        known: the phrases of sentences.

    Raises:
        UserError: they are not given, or not what the priors know.
    """
    if config.vectors is not None:
        if settings.vectors is None:
            raise UserError("these priors are told a vector: name a file of them", "sample.vectors")
        return read_vectors(settings.vectors, config.vectors.dim, "sample.vectors")
    if not config.text:
        return None
    if settings.text is not None:
        return bags(settings.text.split(";"), known, "sample.text")
    if settings.guidance or not config.label_dropout:
        why = "guidance has nothing to lead to" if settings.guidance else "they were never told nothing"
        raise UserError(f"these priors are told sentences, and {why}: say what to show", "sample.text")
    return torch.zeros(1, len(known))
