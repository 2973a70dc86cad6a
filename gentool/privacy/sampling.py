"""Poisson batches: each record joins each step with the same chance, whatever the others do."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from gentool.privacy.randomness import Secrets


class PoissonBatches(Sampler[Tensor]):
    """The index batch of each step; it may be empty, and is yielded then too, as a skipped step would tell so.

    There are no epochs: after 1/q steps a record was in one batch on average, and in none with chance 1/e. Rank r
    of w draws, by itself, from every w-th record from the r-th: together the ranks have one Poisson batch.

    Args:
        size: records in the set.
        rate: the chance q in (0, 1].
        rank, world: this process and how many there are.
        start, stop: the first step and the one after the last.
    """

    def __init__(
        self,
        size: int,
        rate: float,
        secrets: Secrets,
        rank: int = 0,
        world: int = 1,
        *,
        start: int = 0,
        stop: int,
    ) -> None:
        if not 0 < rate <= 1 or not 0 <= rank < world or not 0 <= start <= stop:
            raise ValueError(f"rate {rate}, rank {rank} of {world}, steps {start} to {stop}")
        self.shard = np.arange(rank, size, world)
        self.rate, self.secrets, self.rank = rate, secrets, rank
        self.start, self.stop = start, stop

    def batch(self, step: int) -> Tensor:
        """This rank's indices of a step, (b,) int64, b ~ Binomial(records of the rank, q)."""
        uniform = self.secrets.generator("batch", step, self.rank).random(len(self.shard))
        return torch.from_numpy(self.shard[uniform < self.rate])

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.batch, range(self.start, self.stop))
