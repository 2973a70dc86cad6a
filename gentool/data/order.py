"""The order of training examples as a function of the step alone: a resumed run needs no loader state."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from gentool.data.choice import shuffled
from gentool.data.dataset import Batch, DataSet
from gentool.errors import UserError
from gentool.noise import mix


class StepBatches(Sampler[Tensor]):
    """The index batch of each step: shuffled epochs one after the other, cut into batches.

    Step s takes positions s*B .. (s+1)*B - 1 of the endless sequence of epochs; epoch e is a permutation
    keyed by (seed, e). So every example is seen once an epoch, no example is dropped, and a batch may begin
    in one epoch and end in the next. Rank r of w takes every w-th entry from the r-th: together the ranks
    have the global batch.

    Args:
        size: examples in the set.
        batch_size: examples per step, over all ranks.
        seed: the run's seed.
        rank, world: this process and how many there are.
        start, stop: the first step and the one after the last.

    Raises:
        UserError: the batch cannot be shared out evenly.

    Warns:
        UserWarning: the set is smaller than a batch, which then holds examples several times.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        *,
        start: int = 0,
        stop: int,
    ) -> None:
        if batch_size % world:
            raise UserError(
                f"batch_size {batch_size} cannot be shared evenly by {world} devices", "data.batch_size"
            )
        if not 0 <= rank < world or size < 1 or not 0 <= start <= stop:
            raise ValueError(f"rank {rank} of {world}, {size} examples, steps {start} to {stop}")
        if size < batch_size:
            warnings.warn(
                f"{size} examples are fewer than the batch of {batch_size}: they repeat within a batch"
            )
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world = rank, world
        self.start, self.stop = start, stop
        self._epochs: dict[int, Tensor] = {}

    def _epoch(self, epoch: int) -> Tensor:
        """The permutation of an epoch, (size,) int64; the last two are kept."""
        if epoch not in self._epochs:
            while len(self._epochs) > 1:
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[epoch] = torch.from_numpy(shuffled(self.size, mix(self.seed, "order", epoch)))
        return self._epochs[epoch]

    def batch(self, step: int) -> Tensor:
        """This rank's indices of a step: (batch_size / world,) int64."""
        first, left, parts = step * self.batch_size, self.batch_size, []
        while left:
            epoch, place = divmod(first, self.size)
            parts.append(self._epoch(epoch)[place : place + left])
            first, left = first + len(parts[-1]), left - len(parts[-1])
        return (parts[0] if len(parts) == 1 else torch.cat(parts))[self.rank :: self.world]

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.batch, range(self.start, self.stop))


def _whole(batch: Any) -> Any:
    return batch


def loader(
    dataset: DataSet, batches: Sampler[Tensor], workers: int = 0, pin: bool = False
) -> DataLoader[Batch]:
    """A DataLoader that yields a `Batch` a step.

    A set that fits in memory is decoded here, once, and read without worker processes: a copy of the set
    and a queue per worker would cost more than indexing does.
    """
    dataset.load()
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # through __getitems__ the loader's items are batches
        batch_sampler=batches,  # type: ignore[arg-type]  # a tensor of indices serves as well as a list
        collate_fn=_whole,
        num_workers=0 if dataset.fits else workers,
        persistent_workers=False,
        pin_memory=pin,
    )
