"""How many records fit at once, measured: the most bytes alive while a few go through, and a few more."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

FEW, MORE = 2, 6


class _Alive(TorchDispatchMode):
    """Follows the storages that operations make, forward and backward, until they are freed.

    What a kernel takes for itself and gives back at once is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, found)
        return found

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.now -= size


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int:
    """The most bytes that `work` had at once beyond what was there."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with _Alive() as alive:
        work()
    return alive.peak


def bytes_per_record(device: torch.device, work: Callable[[int], object]) -> float:
    """What one more record takes; `work(n)` puts n records through."""
    work(FEW)  # what is made once and kept
    few, more = (peak_bytes(device, partial(work, n)) for n in (FEW, MORE))
    return max(1.0, (more - few) / (MORE - FEW))
