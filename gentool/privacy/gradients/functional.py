"""Engines without rules for layers: `vmap` over records, and the reference that loops over them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from gentool.privacy.gradients.engine import (
    ClippedSum,
    Engine,
    Examples,
    Losses,
    NoRuleError,
    chunks,
    weighted_sum,
)


class _Losses(nn.Module):
    """A module whose forward pass is the loss, as `functional_call` wants it."""

    def __init__(self, module: nn.Module, losses: Losses) -> None:
        super().__init__()
        self.module = module
        self.losses = losses

    def forward(self, examples: Examples) -> Tensor:
        return self.losses(examples)


class Vmap(Engine):
    """`torch.func.vmap(grad)` over the records: any network of pure operations, fast, and hungry for memory.

    Dropout draws differently for each record.
    """

    def __init__(self, module: nn.Module, losses: Losses) -> None:
        super().__init__(module, losses)
        caller = _Losses(module, losses)

        def loss(weights: dict[str, Tensor], example: dict[str, Tensor]) -> Tensor:
            row = {name: value.unsqueeze(0) for name, value in example.items()}
            found = functional_call(caller, {f"module.{name}": w for name, w in weights.items()}, (row,))
            return found.squeeze(0)

        self._per_record = vmap(grad_and_value(loss), in_dims=(None, 0), randomness="different")

    def compile(self) -> None:
        """Fuses the mapped forward and backward pass by torch.compile, at the first call."""
        self._per_record = torch.compile(self._per_record)

    def part(self, examples: Examples, clip: float) -> ClippedSum:
        weights = {name: p.detach() for name, p in self.parameters.items()}
        try:
            gradients, losses = self._per_record(weights, examples)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise NoRuleError(f"torch.func cannot map this model over records: {reason}") from None
        total, norms = weighted_sum([gradients[name] for name in self.parameters], clip)
        return ClippedSum(total, losses.detach(), norms)


class Microbatch(Engine):
    """One record after the other by ordinary backward passes: the reference, slow, with the least memory."""

    def part(self, examples: Examples, clip: float) -> ClippedSum:
        total, losses, norms = self.zeros(), [], []
        for row in chunks(examples, 1):
            loss = self.losses(row)
            gradients = torch.autograd.grad(loss.sum(), list(self.parameters.values()))
            clipped, norm = weighted_sum([g[None] for g in gradients], clip)
            total += clipped
            losses.append(loss.detach())
            norms.append(norm)
        return ClippedSum(total, torch.cat(losses), torch.cat(norms))
