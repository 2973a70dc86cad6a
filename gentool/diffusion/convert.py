"""What a network may predict, and how one prediction becomes another: x0, eps, v, score and flow velocity.

All are linear in x_t and x0, so each is read off from x_t = alpha x0 + std eps. Times
are those
of the process: noise at large t, so `velocity` is d x_t / dt, the reverse of the flow-matching paper's.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from gentool.diffusion.process import Process
from gentool.errors import UserError, did_you_mean

Kind = Literal["x0", "eps", "v", "score", "velocity"]


def per_sample(c: Tensor, x: Tensor) -> Tensor:
    """(B,) coefficients shaped to multiply x (B, ...)."""
    return c.reshape(-1, *[1] * (x.dim() - 1))


def to_x0(kind: Kind, value: Tensor, x_t: Tensor, process: Process, t: Tensor) -> Tensor:
    """x0 from a prediction of another kind.

    Args:
        kind: what `value` is: `eps`; `v` = alpha eps - std x0; `score` = -eps/std of the original variable;
            `velocity` = alpha' x0 + std' eps.
        value, x_t: (B, ...), the prediction and the state in the original variable.
        t: (B,) process times, t > 0.

    Raises:
        UserError: for an unknown kind.
    """
    p, q = _coefficients(kind, process, t)
    # value = p x0 + q eps and x_t = alpha x0 + std eps: solve for x0
    alpha, std = process.alpha(t), process.std(t)
    det = p * std - q * alpha
    return (per_sample(std / det, x_t) * value - per_sample(q / det, x_t) * x_t).to(x_t.dtype)


def from_x0(kind: Kind, x0: Tensor, x_t: Tensor, process: Process, t: Tensor) -> Tensor:
    """The inverse of `to_x0`."""
    p, q = _coefficients(kind, process, t)
    alpha, std = process.alpha(t), process.std(t)
    eps = (x_t - per_sample(alpha, x_t) * x0) / per_sample(std, x_t)
    return (per_sample(p, x_t) * x0 + per_sample(q, x_t) * eps).to(x_t.dtype)


def convert(source: Kind, target: Kind, value: Tensor, x_t: Tensor, process: Process, t: Tensor) -> Tensor:
    """A prediction of kind `source` as one of kind `target`; arguments as `to_x0`."""
    return from_x0(target, to_x0(source, value, x_t, process, t), x_t, process, t)


def _coefficients(kind: Kind, process: Process, t: Tensor) -> tuple[Tensor, Tensor]:
    """(p, q) of the prediction p x0 + q eps."""
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    if kind == "x0":
        return one, zero
    if kind == "eps":
        return zero, one
    if kind == "v":
        return -process.std(t), process.alpha(t)
    if kind == "score":
        return zero, -1 / process.std(t)
    if kind == "velocity":
        return process.dalpha(t), process.dstd(t)
    known = get_args(Kind)
    raise UserError(f"unknown prediction {kind!r}{did_you_mean(kind, known)} (there are: {', '.join(known)})")
