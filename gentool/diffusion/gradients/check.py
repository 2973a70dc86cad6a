"""A gradient held against another: the self-test that a report carries."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gentool.diffusion.purify import Purifier
from gentool.errors import GentoolError

LIMIT = {torch.float64: 1e-10, torch.float32: 1e-4}
"""How far replay may be from plain back-propagation, relative: only nondeterministic kernels tell them apart."""


@dataclass(frozen=True)
class Agreement:
    """error: |a - b| / |b| over all rows; cosine: the mean of the rows' cosines; signs: the share of equal signs."""

    error: float
    cosine: float
    signs: float


def agreement(found: Tensor, reference: Tensor) -> Agreement:
    """How well a gradient (B, ...) agrees with a reference (B, ...)."""
    a, b = found.double().flatten(1), reference.double().flatten(1)
    error = float((a - b).norm() / b.norm().clamp(min=1e-300))
    cosine = float(torch.nn.functional.cosine_similarity(a, b, dim=1, eps=1e-300).mean())
    return Agreement(error, cosine, float((a.sign() == b.sign()).double().mean()))


def self_test(purifier: Purifier, x: Tensor, index: int, seed: int, steps: int = 4) -> Agreement:
    """Replay against plain back-propagation on one picture x (1, ...) and a few steps of the user's own model.

    Raises:
        GentoolError: they differ: a kernel without determinism, or a model that is no pure function.
    """

    def gradient(one: Purifier) -> Tensor:
        return one.vjp(x, [index], seed, 0, torch.tanh)[1]

    short = replace(purifier, steps=min(steps, purifier.steps), rounds=1)
    return require(agreement(gradient(short), gradient(replace(short, replay=None))), x.dtype)


def require(found: Agreement, dtype: torch.dtype) -> Agreement:
    """The agreement, if it is one of replay with plain back-propagation in this dtype.

    Raises:
        GentoolError: it is not.
    """
    if not found.error <= LIMIT.get(dtype, 1e-2):
        raise GentoolError(
            f"replayed gradients differ from plain back-propagation by {found.error:.2g} (relative) on this model: "
            "no gradient of it can be trusted"
        )
    return found
