"""Mean and covariance of a stream of features in float64: one pass, memory that does not grow with it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from gentool.errors import UserError


class Gaussian(NamedTuple):
    """The moments of `n` features: mean (d,) and unbiased covariance (d, d), float64; d = 1 may be 0-d."""

    n: int
    mean: Tensor
    covariance: Tensor


class Moments(Metric):
    """Streaming mean and covariance by the pairwise update of Chan, Golub and LeVeque (1983).

    Sums of squares around zero lose the covariance of features with a large mean; sums around the running
    mean do not. The states of several ranks are gathered and merged by the same rule, so that `compute` is
    right under DDP.

    Args:
        dim: features per image, d.
    """

    full_state_update = True
    is_differentiable = False
    count: Tensor
    mean: Tensor
    scatter: Tensor

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx=None)
        self.add_state("mean", torch.zeros(dim, dtype=torch.float64), dist_reduce_fx=None)
        self.add_state("scatter", torch.zeros(dim, dim, dtype=torch.float64), dist_reduce_fx=None)

    def update(self, features: Tensor) -> None:
        """Adds features (B, d).

        Raises:
            UserError: a feature is NaN or infinite.
        """
        x = features.detach().to(self.mean.device, torch.float64)
        if not x.isfinite().all():
            raise UserError("a feature is NaN or infinite; such a set cannot be judged")
        mean = x.mean(0)
        x = x - mean
        self._add(len(x), mean)
        self.scatter.addmm_(x.T, x)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Adds what another `Moments` (or its dict of states) has seen."""
        theirs: Any = incoming_state.metric_state if isinstance(incoming_state, Metric) else incoming_state
        if float(theirs["count"]):
            self._add(float(theirs["count"]), theirs["mean"].to(self.mean))
            self.scatter += theirs["scatter"].to(self.scatter)

    def _add(self, count: float, mean: Tensor) -> None:
        """The part of a merge that the distance of the means makes."""
        total = self.count + count
        delta = mean - self.mean
        self.scatter.addr_(delta, delta, alpha=float(self.count * count / total))
        self.mean += delta * (count / total)
        self.count.copy_(total)

    def compute(self) -> Gaussian:
        """The moments of all that was seen.

        Raises:
            UserError: fewer than two images were seen.
        """
        whole = self
        if self.count.dim():  # gathered over ranks: (ranks, ...)
            whole = Moments(self.mean.shape[-1]).to(self.mean.device)
            for count, mean, scatter in zip(self.count, self.mean, self.scatter):
                whole.merge_state({"count": count, "mean": mean, "scatter": scatter})
        count = int(whole.count)
        if count < 2:
            raise UserError(f"a covariance needs at least two images, there are {count}")
        return Gaussian(count, whole.mean.clone(), whole.scatter / (count - 1))
