"""What a person watches of a training: loss, speed, memory and, of a private one, epsilon so far."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable

import torch

from gentool.training.callbacks import OnStep


def peak_memory(device: torch.device) -> int:
    """Bytes taken at most so far: of tensors on a GPU, else of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Status:
    """An `OnStep` that hands on progress with these figures; they change with each row of the log.

    Args:
        epsilon: what the run has spent by its ledger; None where nothing is private.
    """

    def __init__(
        self, on_step: OnStep, device: Callable[[], torch.device], epsilon: Callable[[], float | None]
    ) -> None:
        self.on_step, self.device, self.epsilon = on_step, device, epsilon
        self._row: dict[str, float] = {}
        self._figures: dict[str, float] = {}

    def __call__(self, step: int, total: int, row: dict[str, float]) -> None:
        if row and row is not self._row:  # none before the first row of the log
            self._row, self._figures = row, self._read(row)
        self.on_step(step, total, self._figures)

    def _read(self, row: dict[str, float]) -> dict[str, float]:
        figures = {
            "loss": row["loss"],
            "images/s": row["images_per_second"],
            "GiB": peak_memory(self.device()) / 2**30,
        }
        spent = self.epsilon()
        return figures if spent is None else {**figures, "epsilon": spent}
