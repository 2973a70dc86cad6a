"""Adam that keeps each picture's best values, and the published rate of inversions (Ling et al. 2021, 2111.03186)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Report = Callable[[int, int], None]
"""Told of (steps done, steps in all)."""


@dataclass(frozen=True)
class Found:
    """What was optimised, each picture's best; its loss (B,), and that where it began.

    Attributes:
        values: (B, ...) each, the W+ codes (B, styles, width) first.
    """

    values: tuple[Tensor, ...]
    loss: Tensor
    first: Tensor

    @property
    def ws(self) -> Tensor:
        return self.values[0]


def ramp(t: float) -> float:
    """The published rate over t in [0, 1], as a share of the largest: up over 1/20, down over the last quarter."""
    down = min(1.0, (1 - t) / 0.25)
    return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, t / 0.05)


def descend(
    start: Sequence[Tensor],
    loss: Callable[[Sequence[Tensor], float], tuple[Tensor, Tensor]],
    steps: int,
    rate: Callable[[float], float],
    report: Report = lambda done, total: None,
    tidy: Callable[[Sequence[Tensor]], None] = lambda values: None,
) -> Found:
    """Adam from `start`, keeping the best values that were evaluated, the first and the last among them.

    Args:
        start: (B, ...) each.
        loss: values and the share of the steps that are done -> (B,) what is minimised, and (B,) what the best is
            judged by.
        rate: of the share of the steps that are done.
        tidy: changes the values in place after a step.
    """
    values = [v.detach().clone().requires_grad_() for v in start]
    optimizer = torch.optim.Adam(values, 1.0)
    best, first = [v.detach().clone() for v in start], None
    least = torch.full((len(values[0]),), torch.inf, device=values[0].device, dtype=values[0].dtype)
    for step in range(steps + 1):
        with torch.enable_grad():
            total, judged = loss(values, step / steps if steps else 1.0)
            if step < steps and total.requires_grad:
                for v, gradient in zip(values, torch.autograd.grad(total.sum(), values)):
                    v.grad = gradient
        judged = judged.detach().to(least.dtype)
        first = judged if first is None else first
        better = judged < least
        least[better] = judged[better]
        for kept, v in zip(best, values):
            kept[better] = v.detach()[better]
        if step == steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate(step / steps)
        optimizer.step()
        with torch.no_grad():
            tidy(values)
        report(step + 1, steps)
    assert first is not None
    return Found(tuple(best), least, first)
