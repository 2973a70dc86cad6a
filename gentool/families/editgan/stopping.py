"""When the label heads have learnt enough, each for itself (Ling et al. 2021, 2111.03186, and its published code)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from gentool.families.editgan.config import Stop
from gentool.families.editgan.heads import LabelHeads

FIRST_EPOCH, LAST_EPOCH = 4, 100
"""Passes over the labelled pixels before the published rule looks at the loss, and at most."""
PATIENCE = 50
"""Steps without a new minimum that the published rule bears."""
HELD_OUT = 8
"""With `val`, one pixel in so many is not learnt from."""
EVERY, CHECKS = 50, 5
"""With `val`, steps from check to check, and checks without a new minimum."""


class Stopping(nn.Module):
    """Which heads learn on. All of it is buffers, so that a resumed run goes on alike.

    `paper`: from the fifth pass over the labelled pixels on, a head stops once the loss of its batches has set no new
    minimum for more than 50 steps (a noisy rule, as published), and after 100 passes at the latest. `val`: once its
    loss on held-out pixels has set none for 5 checks of 50 steps; what is released is the head at its least.

    Attributes:
        least: (heads,) least loss so far; since: (heads,) steps, or checks, since then.
        active: (heads,) bool.
        best: with `val`, the heads as they were at their least.
    """

    least: Tensor
    since: Tensor
    active: Tensor

    def __init__(self, rule: Stop, heads: LabelHeads) -> None:
        super().__init__()
        count = len(heads.heads)
        self.rule = rule
        self.register_buffer("least", torch.full((count,), torch.inf))
        self.register_buffer("since", torch.zeros(count, dtype=torch.long))
        self.register_buffer("active", torch.ones(count, dtype=torch.bool))
        self.best = copy.deepcopy(heads.heads).requires_grad_(False) if rule == "val" else None

    def learning(self) -> list[int]:
        """Numbers of the heads that learn on."""
        return cast(list[int], self.active.nonzero().flatten().tolist())

    def saw(self, losses: Tensor, epoch: int) -> None:
        """Losses (learning heads,) of a batch, in this pass over the pixels, from 0."""
        if self.rule == "paper" and epoch >= FIRST_EPOCH:
            self._note(losses.detach())
            self.active &= (self.since <= PATIENCE) & (epoch < LAST_EPOCH)

    def check(self, heads: LabelHeads, steps: int, held_out: Callable[[], Tensor]) -> None:
        """After so many steps; `held_out` gives the losses (heads,) on held-out pixels."""
        if self.best is None or steps % EVERY or not bool(self.active.any()):
            return
        for k in self._note(held_out()[self.active]):
            self.best[k].load_state_dict(heads.heads[k].state_dict())
        self.active &= self.since < CHECKS

    def released(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state of `LabelHeads` with each head at its best in place of its last."""
        if self.best is None:
            return state
        kept = [k for k, least in enumerate(self.least.tolist()) if math.isfinite(least)]
        best = {f"heads.{k}.{name}": v for k in kept for name, v in self.best[k].state_dict().items()}
        return {**state, **best}

    def _note(self, losses: Tensor) -> list[int]:
        """Keeps the minima of the heads that learn on, and tells which of them are new."""
        rows = self.active.nonzero().flatten()
        lower = losses < self.least[rows]
        self.least[rows] = torch.minimum(losses, self.least[rows])
        self.since[rows] = torch.where(lower, 0, self.since[rows] + 1)
        return cast(list[int], rows[lower].tolist())
