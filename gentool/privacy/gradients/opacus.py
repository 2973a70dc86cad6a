"""The gradients of single records as Opacus computes them (Yousefpour et al. 2021): to check the others against."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gentool.errors import UserError
from gentool.networks.blocks import GroupNorm
from gentool.privacy.gradients.engine import (
    ClippedSum,
    Engine,
    Examples,
    Losses,
    NoRuleError,
    records,
    weighted_sum,
)
from gentool.privacy.gradients.functional import _Losses


class Opacus(Engine):
    """Opacus' hooks on every layer; K draws of a record take K times the memory for gradients."""

    def __init__(self, module: nn.Module, losses: Losses) -> None:
        super().__init__(module, losses)
        try:
            from opacus.grad_sample import GradSampleModule
            from opacus.grad_sample.group_norm import compute_group_norm_grad_sample
        except ModuleNotFoundError:
            raise UserError("opacus is not installed; pip install opacus", "privacy.engine") from None
        GradSampleModule.GRAD_SAMPLERS[GroupNorm] = compute_group_norm_grad_sample
        try:
            self._hooked: Any = GradSampleModule(_Losses(module, losses), loss_reduction="sum")
        except NotImplementedError as error:
            raise NoRuleError(f"opacus cannot hook this model: {str(error).splitlines()[0]}") from None
        self._hooked.disable_hooks()

    def part(self, examples: Examples, clip: float) -> ClippedSum:
        count = records(examples)
        owners = [m for m in self.module.modules() if any(p.requires_grad for p in m.parameters(False))]
        modes = [m.training for m in owners]
        # Opacus 1.6 unfolds images as if their channels came first in memory, and is wrong where they come last.
        first = [m.register_forward_pre_hook(_contiguous) for m in owners if isinstance(m, nn.Conv2d)]
        self._hooked.enable_hooks()
        try:
            for owner in owners:  # the hooks of a layer that is not in training do nothing
                owner.training = True
            losses = self._hooked(examples)
            losses.sum().backward()
            gradients = [self._taken(name, count) for name in self.parameters]
        finally:
            for hook in first:
                hook.remove()
            for owner, mode in zip(owners, modes, strict=True):
                owner.training = mode
            self._hooked.disable_hooks()
            self._hooked.zero_grad(set_to_none=True)
        total, norms = weighted_sum(gradients, clip)
        return ClippedSum(total, losses.detach(), norms)

    def _taken(self, name: str, count: int) -> Any:
        """(B, ...) gradients of one parameter: rows of a record's draws, and of several uses of it, are summed."""
        found = getattr(self.parameters[name], "grad_sample", None)
        if found is None:
            raise NoRuleError(f"opacus finds no gradient for {name}")
        uses = found if isinstance(found, list) else [found]
        return sum(g.unflatten(0, (count, -1)).sum(1) for g in uses)


def _contiguous(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous() for x in inputs)
