"""The private gradient of one step: clipped per record, summed, noised once, divided by the expected batch.

G = (sum_i g_i min(1, C/|g_i|) + C sigma z) / (q N), z ~ N(0, I). Source: Abadi et al. 2016, algorithm 1, with Poisson
batches; the denominator is a public constant, never the size that the batch happened to have.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor

from gentool.privacy.gradients.engine import ClippedSum, Engine, Examples
from gentool.privacy.plan import Plan
from gentool.privacy.randomness import Secrets, gaussian
from gentool.privacy.sampling import PoissonBatches


@dataclass
class SecretStep:
    """What any private step needs beside the model, whatever it is that it releases.

    Attributes:
        plan: noise, sensitivity and the sample rate. secrets: of this process.
        secure: draw the noise as `secure_noise` says.
        before: called with the step before it is taken, on rank 0: the ledger's.
        rank, world: this process and how many there are.
    """

    plan: Plan
    secrets: Secrets
    secure: bool = False
    before: Callable[[int], None] = lambda step: None
    rank: int = 0
    world: int = 1

    def batches(self, size: int, start: int, stop: int) -> PoissonBatches:
        """The steps' batches of a set of `size` records."""
        return PoissonBatches(
            size, self.plan.sample_rate, self.secrets, self.rank, self.world, start=start, stop=stop
        )

    @property
    def std(self) -> float | None:
        """Standard deviation of the noise; None where there is none, and nothing to bound."""
        noise = self.plan.noise_multiplier
        return None if noise is None else noise * self.plan.sensitivity

    def normal(self, step: int, size: int, device: torch.device) -> Tensor:
        """(size,) float32 standard normals, of which `std` times go on what step `step` releases: once a step."""
        return gaussian(self.secrets, step, size, device, secure=self.secure)


class OwnStep(SecretStep):
    """Of a family that bounds and releases something else than gradients of single records (`own_private_step`).

    The family calls `before(step)` ahead of each step, bounds what it releases by `plan.sensitivity`, and adds
    `std` times `normal`.
    """


@dataclass(kw_only=True)
class PrivateStep(SecretStep):
    """Of DP-SGD: clipped gradients of single records, summed.

    Attributes:
        engine: of the gradients of single records. physical_batch: how many it works on at once.
        skipped: records of this process whose gradient was not finite, over all steps; they added zero.
    """

    engine: Engine
    physical_batch: int
    skipped: Tensor | float = 0.0

    @property
    def clip(self) -> float:
        """The clipping norm; infinite where there is no noise, and nothing to bound."""
        return math.inf if self.plan.noise_multiplier is None else self.plan.sensitivity

    def take(self, examples: Examples, step: int) -> Taken:
        """The gradient of step `step` for this process's records, of which there may be none (`examples` is {}).

        In a distributed run every process calls this for every step; rank 0 adds the noise, once, to its part.
        """
        if self.rank == 0:
            self.before(step)
        found = self._fitting_sum(examples)
        total = found.total
        if self.rank == 0 and self.std is not None:
            total.add_(self.normal(step, len(total), total.device).to(total.dtype), alpha=self.std)
        if self.world > 1:
            torch.distributed.all_reduce(total)
        finite = found.norms.isfinite()
        self.skipped = self.skipped + (~finite).sum()
        # Over a public number, so that a batch of any size, none too, has a loss; on average it is the mean.
        share = self.plan.expected_batch / self.world
        loss = torch.where(found.losses.isfinite(), found.losses, 0).sum() / share
        clipped = (finite & (found.norms > self.clip)).sum() / share
        return Taken(total.div_(self.plan.expected_batch), loss, clipped)

    def _fitting_sum(self, examples: Examples) -> ClippedSum:
        """The clipped sum, worked off in smaller parts from now on where the device's memory does not hold these."""
        while True:
            try:
                return self.engine(examples, self.clip, self.physical_batch)
            except torch.OutOfMemoryError:
                if self.physical_batch == 1:
                    raise
            self.physical_batch = -(-self.physical_batch // 2)


@dataclass(frozen=True)
class Taken:
    """What a step made: `gradient` (P,) may be released; the rest is private.

    Attributes:
        loss: sum of the finite losses / expected batch. clipped: records that were clipped / expected batch.
    """

    gradient: Tensor
    loss: Tensor
    clipped: Tensor
