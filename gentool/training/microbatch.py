"""A batch that does not fit the device's memory is worked off in parts, and gives the same gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class _Known(torch.autograd.Function):
    """A loss whose gradients are known: its backward pass hands them over, in the scale that autograd asks for.

    So whoever calls `backward` (Lightning, a gradient scaler, DDP's hooks) notices nothing.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *scales: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(None if g is None else g * scales[0] for g in ctx.gradients)


def mean_in_parts(
    losses: Callable[[dict[str, Tensor]], Tensor],
    examples: dict[str, Tensor],
    parameters: Sequence[nn.Parameter],
    parts: int,
) -> Tensor:
    """The mean of `losses(examples)` (B,), 0-d, holding the graph of one part of the batch at a time.

    Its value and gradients are those of the whole batch to rounding; dropout draws part by part. Works off
    the backward passes at once, and hands the sums over when the result's own is asked for.

    Args:
        losses: tensors (B, ...) to losses (B,), row by row.
        parts: how many parts; at most B are made.
    """
    count = len(next(iter(examples.values())))
    size = -(-count // min(parts, count))
    total = torch.zeros(())
    gradients: list[Tensor | None] = [None] * len(parameters)
    for start in range(0, count, size):
        share = losses({key: value[start : start + size] for key, value in examples.items()}).sum() / count
        found = torch.autograd.grad(share, parameters, allow_unused=True)
        gradients = [_sum(a, b) for a, b in zip(gradients, found, strict=True)]
        total = share.detach() + total.to(share)
    loss: Tensor = _Known.apply(total, gradients, *parameters)
    return loss


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a.add_(b)
