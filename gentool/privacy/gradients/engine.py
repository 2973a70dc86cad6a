"""The sum of per-record gradients, each clipped to one norm: what every engine computes, and how it is cut to fit.

Source: Abadi et al. 2016 (DP-SGD, algorithm 1); Dockhorn et al. 2023 (DPDM, algorithm 1) for K draws a record,
which `losses` averages, so that a record is clipped once, after everything that belongs to it is averaged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gentool.errors import UserError
from gentool.networks.embedding import full_precision

Examples = dict[str, Tensor]
"""Tensors (B, ...), row i of each belonging to record i alone."""
Losses = Callable[[Examples], Tensor]
"""Examples -> (B,) losses, each a function of the module's weights and of its own row alone."""

GUARD = 1e-6
"""Added to a norm before dividing by it; makes what is clipped a little smaller, never larger."""


class NoRuleError(UserError):
    """The engine cannot take this model's gradients record by record; `vmap` or `microbatch` may."""


@dataclass(frozen=True)
class ClippedSum:
    """What one (part of a) batch adds to a private step. All of it is private until noise is added to `total`.

    Attributes:
        total: (P,) sum over records of g_i min(1, C/(|g_i| + 1e-6)), at least float32; the trainable parameters
            flattened in the order of `named_parameters`. A record whose gradient is not finite adds zero.
        losses, norms: (B,) before clipping, not finite where the record's are not.
    """

    total: Tensor
    losses: Tensor
    norms: Tensor


class Engine(ABC):
    """Clipped sums of one module's gradients.

    Args:
        module: its parameters that ask for a gradient are taken; frozen ones are left out of norm and sum.
        losses: computed with the module's weights.
    """

    def __init__(self, module: nn.Module, losses: Losses) -> None:
        self.module = module
        self.losses = losses
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}

    @abstractmethod
    def part(self, examples: Examples, clip: float) -> ClippedSum:
        """The clipped sum over records (at least one) that are worked on at once; `clip` may be infinite.

        Raises:
            NoRuleError: this engine cannot differentiate the model record by record.
        """

    def __call__(self, examples: Examples, clip: float, physical_batch: int) -> ClippedSum:
        """The clipped sum over any number of records, none too, `physical_batch` of them at a time."""
        parts = [self.part(some, clip) for some in chunks(examples, physical_batch)]
        if not parts:
            some_weight = next(iter(self.parameters.values()))
            none = some_weight.new_zeros(0, dtype=work_dtype(some_weight))
            return ClippedSum(self.zeros(), none, none)
        total = parts[0].total
        for part in parts[1:]:
            total += part.total
        return ClippedSum(total, torch.cat([p.losses for p in parts]), torch.cat([p.norms for p in parts]))

    def zeros(self) -> Tensor:
        """(P,) zeros where the parameters are."""
        return torch.cat([p.new_zeros(p.numel(), dtype=work_dtype(p)) for p in self.parameters.values()])

    def spread(self, total: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """The parameters with their parts of a (P,) vector, in their shapes and types."""
        sizes = [p.numel() for p in self.parameters.values()]
        for parameter, values in zip(self.parameters.values(), total.split(sizes), strict=True):
            yield parameter, values.view_as(parameter).to(parameter.dtype)


def chunks(examples: Examples, size: int) -> Iterator[dict[str, Tensor]]:
    """The examples in runs of at most `size` records; nothing where there are none."""
    count = records(examples)
    for start in range(0, count, size):
        yield {name: rows[start : start + size] for name, rows in examples.items()}


def records(examples: Examples) -> int:
    return len(next(iter(examples.values()), ()))


def factors(norms: Tensor, clip: float) -> Tensor:
    """min(1, C/(|g| + 1e-6)), and 0 for a record whose norm is not finite: its contribution stays within C."""
    return torch.where(norms.isfinite(), (clip / (norms + GUARD)).clamp(max=1), 0)


def work_dtype(value: Tensor) -> torch.dtype:
    """Norms, sums and noise are in float32 at least, whatever the forward pass is in."""
    return torch.promote_types(value.dtype, torch.float32)


def weighted_sum(gradients: list[Tensor], clip: float) -> tuple[Tensor, Tensor]:
    """((P,) clipped sum, (B,) norms) of per-record gradients (B, ...), one tensor a parameter."""
    flat = [g.flatten(1).to(work_dtype(g)) for g in gradients]
    norms = torch.stack([torch.linalg.vector_norm(g, dim=1) for g in flat]).square().sum(0).sqrt()
    weight = factors(norms, clip)
    bad = ~norms.isfinite()
    if bool(bad.any()):  # 0 times infinity is no number
        flat = [g.masked_fill(bad[:, None], 0) for g in flat]
    with exact_products(weight.device):
        return torch.cat([weight.to(g.dtype) @ g for g in flat]), norms


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Matrix products in full float32, without autocast or TF32: with fewer bits a sum could exceed the norms that
    it was clipped by."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with full_precision(device):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
