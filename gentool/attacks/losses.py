"""What attacks maximise: functions of logits (B, K) and labels (B,) to (B,)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from gentool.errors import UserError

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """(B,) cross-entropies in nats."""
    return F.cross_entropy(logits, label, reduction="none")


def dlr(logits: Tensor, label: Tensor) -> Tensor:
    """(B,) differences of logits ratio (Croce and Hein 2020, equation 6), positive where the label is missed.

    -(z_y - max_{i != y} z_i) / (z_(1) - z_(3)), with z_(1) >= z_(2) >= ... the sorted logits: neither a shift nor
    a scale of the logits changes it, so that a confident classifier cannot hide its gradient.

    Raises:
        UserError: fewer than three classes: the denominator needs a third.
    """
    if logits.shape[1] < 3:
        raise UserError(f"the DLR loss needs at least 3 classes, not {logits.shape[1]}: take apgd-ce")
    ranked = logits.sort(dim=1).values
    own = logits.gather(1, label[:, None]).squeeze(1)
    reads = ranked[:, -1] == own
    other = ranked[:, -2].where(reads, ranked[:, -1])
    return -(own - other) / (ranked[:, -1] - ranked[:, -3]).clamp(min=1e-12)
