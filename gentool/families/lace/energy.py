"""Log densities of formulas over attributes, and how true a formula is of readings (arXiv 2110.10873, section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gentool.errors import UserError
from gentool.families.lace.formula import Node, Term, fold

SIGMA = 0.1
"""Standard deviation of a continuous attribute given the latent, in units of its range."""


@dataclass(frozen=True)
class Operators:
    """The constants of `or` and `not`.

    Attributes:
        gamma: weight of the left operand of `or`.
        push: `not` weighs its operand's l by min(push/|l|, 1), held constant under the gradient: a raw minus sign would
            have no lower bound to its energy.
    """

    gamma: float = 20.0
    push: float = 0.1

    def both(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def either(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.logaddexp(a + math.log(self.gamma), b)

    def negated(self, a: Tensor) -> Tensor:
        weight = (self.push / a.detach().abs().clamp(min=1e-30)).clamp(max=1)
        return -weight * a

    def log_prob(self, node: Node, leaf: Callable[[Term], Tensor]) -> Tensor:
        """(B,) log density of a formula, up to a constant, from those of its terms."""
        return fold(node, leaf, self.both, self.either, self.negated)

    def bound(self, node: Node) -> float:
        """The highest log density there is, each term's being at most 0.

        Raises:
            UserError: a formula with `not`, whose push is no density.
        """

        def likeliest(term: Term) -> Tensor:
            return torch.zeros((), dtype=torch.float64)

        def refuse(value: Tensor) -> Tensor:
            raise UserError(
                "rejection samples densities, and not is a push: leave it out, or take another sampler"
            )

        return float(fold(node, likeliest, self.both, self.either, refuse))


def discrete(logits: Tensor, value: float, temperature: float = 1.0, *, code: bool = False) -> Tensor:
    """(B,) log p(class | latent) of logits (B, K).

    Args:
        code: divide the class's own logit alone, as the published code does. That is no log probability, and below a
            temperature of 1 its gradient never vanishes.
    """
    if code:
        return logits[:, int(value)] / temperature - logits.logsumexp(1)
    return (logits / temperature).log_softmax(1)[:, int(value)]


def continuous(predicted: Tensor, value: float, sigma: float = SIGMA) -> Tensor:
    """(B,) -(value - f)^2 / (2 sigma^2) of predictions (B, 1)."""
    return -(value - predicted[:, 0]).square() / (2 * sigma**2)


def term_log_prob(
    heads: Mapping[str, Tensor], temperature: float = 1.0, *, code: bool = False
) -> Callable[[Term], Tensor]:
    """What the heads (B, K), or (B, 1) of a number, say of a term."""

    def leaf(term: Term) -> Tensor:
        head = heads[term.name]
        if head.shape[1] == 1:
            return continuous(head, term.value)
        return discrete(head, term.value, temperature, code=code)

    return leaf


def truth(node: Node, read: Mapping[str, Tensor]) -> Tensor:
    """(B,) in [0, 1]: how true a formula is of readings (B,): a class is right or wrong, a number 1 - |error|.

    `and` is the smaller, `or` the larger, `not` the rest to 1. A reading of -1 is missing: its terms are false.

    Args:
        read: int64 classes or floats in [0, 1], by attribute.
    """

    def leaf(term: Term) -> Tensor:
        value = read[term.name]
        if value.dtype.is_floating_point:
            return torch.where(value < 0, 0, 1 - (value - term.value).abs()).clamp(0, 1)
        return (value == int(term.value)).float()

    def rest(value: Tensor) -> Tensor:
        return 1 - value

    smaller: Callable[[Tensor, Tensor], Tensor] = torch.minimum
    larger: Callable[[Tensor, Tensor], Tensor] = torch.maximum
    return fold(node, leaf, smaller, larger, rest)
