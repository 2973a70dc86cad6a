"""Per-record gradients as a backward pass leaves them: whole, or as the factors they are products of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gentool.privacy.gradients.engine import NoRuleError, exact_products, factors, work_dtype


class Kept(Protocol):
    """What is kept of one parameter's gradients of B records."""

    def squares(self) -> Tensor:
        """(B,) squared norms."""

    def whole(self) -> Tensor:
        """(B, numel) gradients, at least float32."""

    def weighted(self, weight: Tensor) -> Tensor:
        """(numel,) sum of weight_i g_i."""

    def without(self, bad: Tensor) -> Kept:
        """With zeros for the records where `bad` (B,)."""


@dataclass
class Whole:
    """The gradients themselves, (b, numel) for one run of records after the other: they are never copied together."""

    parts: tuple[Tensor, ...]

    def squares(self) -> Tensor:
        return torch.cat([torch.linalg.vector_norm(g, dim=1) for g in self.parts]).square()

    def whole(self) -> Tensor:
        return torch.cat(self.parts)

    def weighted(self, weight: Tensor) -> Tensor:
        weights = weight.to(self.parts[0].dtype).split([len(g) for g in self.parts])
        total = weights[0] @ self.parts[0]
        for some, gradient in zip(weights[1:], self.parts[1:]):
            total.addmv_(gradient.T, some)
        return total

    def without(self, bad: Tensor) -> Kept:
        masks = bad[:, None].split([len(g) for g in self.parts])
        return Whole(tuple(g.masked_fill(m, 0) for g, m in zip(self.parts, masks)))


@dataclass
class Outer:
    """Gradients of a matrix, g_i = sum_t left_it right_it^T: left (B, T, p), right (B, T, D).

    Norms come from the factors (Goodfellow 2015; Li et al. 2022), in float64 where terms could cancel, and the
    weighted sum from one matrix product: the gradients themselves are never made.
    """

    left: Tensor
    right: Tensor

    def squares(self) -> Tensor:
        if self.left.shape[1] == 1:
            left, right = (torch.linalg.vector_norm(v, dim=(1, 2)).square() for v in (self.left, self.right))
            return left * right
        left, right = self.left.double(), self.right.double()
        gram = (left @ left.transpose(1, 2)).mul_(right @ right.transpose(1, 2))
        return gram.sum((1, 2)).clamp(min=0).to(self.left.dtype)

    def whole(self) -> Tensor:
        return (self.left.transpose(1, 2) @ self.right).flatten(1)

    def weighted(self, weight: Tensor) -> Tensor:
        left = self.left * weight.to(self.left.dtype)[:, None, None]
        return (left.flatten(0, 1).T @ self.right.flatten(0, 1)).flatten()

    def without(self, bad: Tensor) -> Kept:
        mask = bad[:, None, None]
        return Outer(self.left.masked_fill(mask, 0), self.right.masked_fill(mask, 0))


@dataclass
class Rows:
    """Gradients of a table of `size` rows: record i adds left (B, T, D) to the rows index (B, T)."""

    left: Tensor
    index: Tensor
    size: int

    def squares(self) -> Tensor:
        left = self.left.double()
        same = (self.index[:, :, None] == self.index[:, None, :]).to(left)
        return (left @ left.transpose(1, 2)).mul_(same).sum((1, 2)).clamp(min=0).to(self.left.dtype)

    def whole(self) -> Tensor:
        count, width = len(self.left), self.left.shape[2]
        table = self.left.new_zeros(count, self.size, width)
        return table.scatter_add_(1, self.index[:, :, None].expand(-1, -1, width), self.left).flatten(1)

    def weighted(self, weight: Tensor) -> Tensor:
        left = self.left * weight.to(self.left.dtype)[:, None, None]
        table = left.new_zeros(self.size, left.shape[2])
        return table.index_add_(0, self.index.flatten(), left.flatten(0, 1)).flatten()

    def without(self, bad: Tensor) -> Kept:
        return Rows(self.left.masked_fill(bad[:, None, None], 0), self.index, self.size)


class Tape:
    """What one backward pass over B = `records` records leaves of each parameter, by its name."""

    def __init__(self, records: int, device: torch.device) -> None:
        self.records = records
        self.device = device
        self._kept: dict[str, Kept] = {}

    def fold(self, rows: Tensor, where: str) -> Tensor:
        """(n, ...) rows, those of a record side by side -> (B, n/B, ...)."""
        if rows.shape[0] % self.records:
            raise NoRuleError(
                f"{where} is given {rows.shape[0]} rows for {self.records} records: no rule says whose they are"
            )
        return rows.unflatten(0, (self.records, -1))

    def keep(self, name: str, kept: Kept) -> None:
        """Adds gradients; a parameter that is used several times has their sum."""
        before = self._kept.get(name)
        self._kept[name] = kept if before is None else Whole((before.whole() + kept.whole(),))

    def matrix(self, name: str, left: Tensor, right: Tensor) -> None:
        """Adds sum_t left_t right_t^T of left (n, ..., p) and right (n, ..., D), kept in the cheaper way."""
        # detached: a view of an activation would hold the graph, whose nodes hold this tape, and neither would go
        left, right = (self.fold(v.detach(), name).flatten(1, -2).to(work_dtype(v)) for v in (left, right))
        outer = Outer(left, right)
        terms, rows, columns = left.shape[1], left.shape[2], right.shape[2]
        # Gram matrices take T^2 (p + D) products in float64, at half the speed; the gradients T p D.
        by_factors = terms == 1 or 2 * terms * (rows + columns) < rows * columns
        self.keep(name, outer if by_factors else Whole((outer.whole(),)))

    def clipped(self, names: list[str], clip: float) -> tuple[Tensor, Tensor]:
        """((P,) clipped sum, (B,) norms).

        Raises:
            NoRuleError: a parameter got no gradient.
        """
        missing = [name for name in names if name not in self._kept]
        if missing:
            raise NoRuleError(f"no gradient reached {', '.join(missing)}")
        kept = [self._kept[name] for name in names]
        with exact_products(self.device):
            norms = torch.stack([k.squares() for k in kept]).sum(0).sqrt()
            bad = ~norms.isfinite()
            if bool(bad.any()):  # 0 times infinity is no number
                kept = [k.without(bad) for k in kept]
            weight = factors(norms, clip)
            return torch.cat([k.weighted(weight) for k in kept]), norms
