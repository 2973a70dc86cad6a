"""Map-style data sets of tensors over a source: the rows of one split, in memory where they fit."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gentool.data import choice
from gentool.data.options import DataConfig, Split
from gentool.data.source import Source
from gentool.data.spec import DataSpec, Fault
from gentool.errors import UserError

IN_MEMORY = 1 << 30
"""Splits of up to this many bytes are decoded once, before the first step: every fault shows there."""
BLOCK = 1024
MOST = 10
"""Skipped pictures that a warning names; provenance names all."""

log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Examples: `x` (B, C, H, W) uint8 or (B, ...) float32, `label` and `index` (B,) int64; -1 is no label.

    `index` is the row in the data set, so that noise and per-example records do not depend on the batch.
    """

    x: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # the field hides tuple.index, which nobody calls on a batch


class DataSet(Dataset[tuple[Tensor, int]]):
    """The examples of one split.

    Args:
        source: the raw examples.
        rows: which of them, in order.
        labels: (len(rows),) int64.
        spec: after the choice of classes.
        identity: what the fingerprint is made of besides the content.
    """

    def __init__(
        self, source: Source, rows: np.ndarray, labels: np.ndarray, spec: DataSpec, identity: str
    ) -> None:
        self.source = source
        self.rows = rows
        self.labels = labels
        self.spec = spec
        self.identity = identity
        self._label = torch.from_numpy(labels)
        self._x: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all examples decoded."""
        return len(self) * int(np.prod(self.spec.shape)) * (1 if self.spec.kind == "image" else 4)

    @property
    def fits(self) -> bool:
        """Whether the split is kept in memory."""
        return self.nbytes <= IN_MEMORY

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the content and the options that matter, in hexadecimal; reads everything once."""
        return hashlib.sha256(f"{self.source.digest()}\n{self.identity}".encode()).hexdigest()

    @property
    def notes(self) -> dict[str, int]:
        """Conversions that were made by rule, with counts."""
        return self.source.notes

    @property
    def skipped(self) -> tuple[Fault, ...]:
        """What cannot be read and was left out of the files that this split was chosen from."""
        return self.source.skipped

    @cached_property
    def sentences(self) -> list[str]:
        """What is to be said of each example, made of `spec.phrases`; empty where examples are not described."""
        return [self.source.sentence(int(row)) for row in self.rows] if self.spec.phrases else []

    def load(self) -> None:
        """Decodes the split into memory where it fits; called by the first read.

        Raises:
            CorruptError: an example cannot be read; names the file or row.
        """
        if self._x is None and self.fits:
            dtype = np.uint8 if self.spec.kind == "image" else np.float32
            x = np.empty((len(self), *self.spec.shape), dtype)
            for start in range(0, len(self), BLOCK):
                x[start : start + BLOCK] = self.source.read(self.rows[start : start + BLOCK])
            self._x = torch.from_numpy(x)

    def take(self, indices: Sequence[int] | Tensor) -> Batch:
        """The examples at these indices, in their order; repeats are allowed.

        Raises:
            CorruptError: an example cannot be read.
            IndexError: an index outside 0 .. len - 1.
        """
        index = indices if isinstance(indices, Tensor) else torch.tensor(list(indices), dtype=torch.int64)
        if self._x is None:
            self.load()
        if self._x is not None:
            return Batch(self._x.index_select(0, index), self._label.index_select(0, index), index)
        x = self.source.read(self.rows[index.numpy()])
        return Batch(torch.from_numpy(np.ascontiguousarray(x)), self._label[index], index)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Batch:
        return self.take(indices)  # DataLoader's own hook: one call a batch

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        batch = self.take([index % len(self)])
        return batch.x[0], int(batch.label[0])


def open_set(config: DataConfig, split: Split) -> DataSet:
    """Opens a split of a data set: its own test part, or the share held out from training.

    Raises:
        UserError: files are missing (says which and how to get them), or options do not fit the data.
        CorruptError: files are damaged; names them.
    """
    if config.held_out is None and config.has_test():
        return open_whole(config, split)
    source = config.source("train")
    kept = choice.held_out(source.labels, config.held_out or 0.1)
    return _choose(config, source, np.flatnonzero(kept if split == "test" else ~kept), split)


def open_whole(config: DataConfig, split: Split) -> DataSet:
    """Opens all examples of a part as the set's files have them, nothing held out; raises as `open_set`.

    A set without a test part of its own has only `train`.
    """
    if split == "test" and not config.has_test():
        raise UserError("has no test part of its own; `train` is all of it", f"data set {config.name}")
    source = config.source(split)
    return _choose(config, source, np.arange(len(source)), split)


def _choose(config: DataConfig, source: Source, rows: np.ndarray, split: Split) -> DataSet:
    """The rows that `classes` and `limit` leave."""
    labels, spec = source.labels[rows], source.spec
    if config.classes is not None:
        numbers = choice.class_numbers(config.classes, spec.class_names, source.where)
        renumber = np.full(spec.classes + 1, -1, np.int64)  # the last entry is for the label -1
        renumber[numbers] = np.arange(len(numbers))
        rows, labels = rows[renumber[labels] >= 0], renumber[labels][renumber[labels] >= 0]
        names = tuple(spec.class_names[k] for k in numbers)
        spec = replace(spec, classes=len(names), class_names=names)
    chosen = choice.limited(np.arange(len(rows)), config.limit)
    if len(chosen) == 0:
        raise UserError(f"no examples left for {split!r} after held_out, classes and limit", source.where)
    for rule, count in source.notes.items():
        log.warning("%s: %d x %s", source.where, count, rule)
    if source.skipped:
        listed = ", ".join(fault.where for fault in source.skipped[:MOST])
        more = " ..." if len(source.skipped) > MOST else ""
        log.warning("%s: %d unreadable, left out: %s%s", source.where, len(source.skipped), listed, more)
    identity = json.dumps([split, config.content_options(), spec.kind, spec.shape, spec.class_names])
    return DataSet(source, rows[chosen], labels[chosen], spec, identity)
