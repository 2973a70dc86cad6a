"""Expectation over transformation (Athalye et al. 2018): losses and gradients averaged over fresh draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gentool.attacks.defence import Defence
from gentool.attacks.losses import Loss
from gentool.errors import UserError

TIE = 1e-6
"""Shares of copies are sums of 1 / copies: equal ones differ in rounding."""
_Part = Callable[[Tensor, list[int]], tuple[Tensor, Tensor]]
"""Rows by picture (n,) and their draws -> logits (n, K) and losses (n,)."""


@dataclass(frozen=True)
class Point:
    """What is known of a point: mean loss (B,), share of copies misread (B,), mean gradient (B, ...)."""

    loss: Tensor
    missed: Tensor
    gradient: Tensor


@dataclass
class Tally:
    """(B,) counts of gradients at points that some copy still reads right, and of those that told nothing.

    Beyond them nothing is left to climb: the DLR loss is flat there, and hides nothing.
    """

    asked: Tensor
    zero: Tensor
    broken: Tensor

    @classmethod
    def of(cls, count: int) -> Tally:
        return cls(*(torch.zeros(count, dtype=torch.int64) for _ in range(3)))


@dataclass
class Expectation:
    """A defence as attacks see it, for one batch of pictures.

    Every call takes fresh draws, numbered on from the last call's, so that a picture's do not depend on its batch.

    Attributes:
        indices: (B,) the pictures' numbers. label: (B,) what they show.
        copies: draws averaged; a defence that draws nothing is asked once.
        rows: most copies of pictures in one pass of the defence: memory, and to rounding nothing else.
        tally: gradients so far, and how many of them were zero or not finite.
    """

    defence: Defence
    loss: Loss
    indices: Sequence[int]
    label: Tensor
    copies: int
    seed: int
    rows: int = 256
    tally: Tally = field(init=False)

    def __post_init__(self) -> None:
        self.copies = self.copies if self.defence.random else 1
        self.tally = Tally.of(len(self.label))
        self._drawn = 0

    @torch.enable_grad()
    def climb(self, x: Tensor) -> Point:
        """The point x (B, ...) with its gradient. One that is not finite is counted, and taken for zero.

        Raises:
            UserError: the defence cuts gradients off.
        """
        gradient = torch.zeros_like(x)

        def part(picture: Tensor, draw: list[int]) -> tuple[Tensor, Tensor]:
            fed = x[picture].detach().requires_grad_()
            logits = self.defence(fed, [self.indices[i] for i in picture.tolist()], self.seed, draw)
            if not logits.requires_grad:
                raise UserError(
                    "the defence has no gradient: its sampler cuts the graph, so an attack through it would see zeros "
                    "and prove nothing; take --gradient bpda or --gradient transfer"
                )
            loss = self.loss(logits, self.label[picture])
            (own,) = torch.autograd.grad(loss.sum(), fed)
            gradient.index_add_(0, picture, own / self.copies)
            return logits.detach(), loss.detach()

        loss, missed = self._averaged(len(x), x.device, part)
        broken = ~gradient.isfinite().flatten(1).all(1)
        gradient[broken] = 0
        stands = missed < 1 - TIE
        self.tally.asked += stands.cpu()
        self.tally.broken += (stands & broken).cpu()
        self.tally.zero += (stands & ~broken & (gradient == 0).flatten(1).all(1)).cpu()
        return Point(loss, missed, gradient)

    @torch.no_grad()
    def look(self, x: Tensor) -> Point:
        """The point x (B, ...) with a zero gradient, for the price of the forward pass."""

        def part(picture: Tensor, draw: list[int]) -> tuple[Tensor, Tensor]:
            logits = self.defence(x[picture], [self.indices[i] for i in picture.tolist()], self.seed, draw)
            return logits, self.loss(logits, self.label[picture])

        return Point(*self._averaged(len(x), x.device, part), torch.zeros_like(x))

    def _averaged(self, count: int, device: torch.device, part: _Part) -> tuple[Tensor, Tensor]:
        first, self._drawn = self._drawn, self._drawn + self.copies
        loss, missed = torch.zeros(count, device=device), torch.zeros(count, device=device)
        for copy in torch.arange(count * self.copies, device=device).split(self.rows):
            picture = copy // self.copies
            logits, each = part(picture, (first + copy % self.copies).tolist())
            loss.index_add_(0, picture, each.float() / self.copies)
            wrong = (logits.argmax(1) != self.label[picture]).float()
            missed.index_add_(0, picture, wrong / self.copies)
        return loss, missed


class Best:
    """The most harmful points found so far: most copies misread, then the highest loss.

    With one copy that is any misread point before every other, as attacks on deterministic classifiers rank them.

    Attributes:
        x: (B, ...) the points. missed, loss: (B,) what was seen of them.
    """

    def __init__(self, x: Tensor, point: Point) -> None:
        self.x, self.missed, self.loss = x, point.missed, point.loss

    def offer(self, x: Tensor, point: Point) -> None:
        """Takes the better of both, picture by picture."""
        worse = point.missed > self.missed + TIE
        tied = (point.missed - self.missed).abs() <= TIE
        better = worse | (tied & (point.loss > self.loss))
        self.x = torch.where(better.view(-1, *[1] * (x.dim() - 1)), x, self.x)
        self.missed = torch.where(better, point.missed, self.missed)
        self.loss = torch.where(better, point.loss, self.loss)
