"""What a file format gives: raw examples by row, before any choice of rows. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from gentool.data.spec import DataSpec, Fault
from gentool.errors import CorruptError


@dataclass(eq=False)
class Source(ABC):
    """Examples by row.

    Attributes:
        where: the file or folder, for messages.
        spec: what `read` returns a row of.
        labels: (N,) int64, -1 for none; known without decoding a picture.
        notes: conversions made by rule, with counts, e.g. `{"transparency laid over white": 3}`.
        skipped: what cannot be read and was left out, as the recipe asked.
    """

    where: str
    spec: DataSpec
    labels: np.ndarray
    notes: dict[str, int] = field(default_factory=dict)
    skipped: tuple[Fault, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, rows: np.ndarray) -> np.ndarray:
        """(n, C, H, W) uint8 or (n, ...) float32.

        Raises:
            CorruptError: a row cannot be read; names the file or row.
        """

    def sentence(self, row: int) -> str:
        """What is to be said of a row, made of `spec.phrases`; asked for only where there are some."""
        raise NotImplementedError

    @abstractmethod
    def digest(self) -> str:
        """sha256 over the content; the same on every machine, wherever the files lie."""

    def faults(self) -> Iterator[Fault]:
        """Audits every row: all faults, not the first alone."""
        for start in range(0, len(self), 256):
            try:
                self.read(np.arange(start, min(start + 256, len(self))))
            except CorruptError as error:
                yield Fault(error.where or self.where, error.message)
