"""Rules say which predictions they read and what they add; `compose` evaluates the network once for all.

The guided prediction is D_label + the sum of the rules' corrections. For classifier-free (scale w) and
perturbed-attention guidance (v): D_label + (w - 1)(D_label - D_null) + (v - 1)(D_label - D_perturbed), at
three network calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gentool.diffusion.predictor import Call
from gentool.errors import UserError

PERTURBED = "perturbed"
"""The network variant that perturbed-attention guidance calls."""

Null = int | Callable[[Tensor], Tensor]
"""What an unlabelled sample is told: the null label, or conditions (B, ...) of any kind to those that say nothing."""

Rows = Tensor | bool
"""Which samples of the batch: a (B,) mask, or all (True) or none (False) at no look at the device."""


@dataclass(frozen=True)
class Wanted:
    """The predictions a rule reads. A sample that wants no unlabelled one always gets the labelled one."""

    labelled: Rows = False
    unlabelled: Rows = False
    perturbed: bool = False

    def __or__(self, other: Wanted) -> Wanted:
        return Wanted(
            _or(self.labelled, other.labelled),
            _or(self.unlabelled, other.unlabelled),
            self.perturbed or other.perturbed,
        )


@dataclass(frozen=True)
class Predictions:
    """The network at one state. A sample without one of `labelled` and `unlabelled` has the other in its
    place: the two then differ by exactly zero.

    Attributes:
        x: (B, ...) canonical state.
        sigma: (B,) noise level.
        label: (B,) or None.
        labelled, unlabelled: (B, ...) D(x, sigma, label) and D(x, sigma, null).
        perturbed: (B, ...), or None where no rule wants it.
    """

    x: Tensor
    sigma: Tensor
    label: Tensor | None
    labelled: Tensor
    unlabelled: Tensor
    perturbed: Tensor | None


class Rule(Protocol):
    """One guidance rule; immutable, its memory travels with the sampler."""

    def wants(self, sigma: Tensor, memory: Any) -> Wanted:
        """What `correct` will read at these noise levels."""

    def correct(self, at: Predictions, memory: Any) -> tuple[Tensor, Any]:
        """(what to add to `at.labelled` (B, ...), the next memory); every sample by itself."""


@dataclass(frozen=True)
class Composed:
    """The rules as one `gentool.diffusion.predictor.Guidance`; its memory is the tuple of theirs."""

    rules: tuple[Rule, ...]
    null_label: Null | None = None

    def __call__(
        self, call: Call, x: Tensor, sigma: Tensor, label: Tensor | None, memory: Any
    ) -> tuple[Tensor, tuple[Any, ...]]:
        memories = memory or (None,) * len(self.rules)
        wanted = Wanted()
        for rule, own in zip(self.rules, memories, strict=True):
            wanted |= rule.wants(sigma, own)
        at = _evaluate(call, x, sigma, label, self.null_label, wanted)
        x0, after = at.labelled, []
        for rule, own in zip(self.rules, memories, strict=True):
            correction, own = rule.correct(at, own)
            x0 = x0 + correction
            after.append(own)
        return x0, tuple(after)


def compose(rules: Sequence[Rule], null_label: Null | None = None) -> Composed:
    """The rules, in order, as one guidance; `null_label` (= classes) is None for an unconditional model."""
    return Composed(tuple(rules), null_label)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, ..., 1), to broadcast over the samples of `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


def _evaluate(
    call: Call, x: Tensor, sigma: Tensor, label: Tensor | None, null_label: Null | None, wanted: Wanted
) -> Predictions:
    unlabelled = _static(wanted.unlabelled)
    if unlabelled is False:
        plain = call(x, sigma, label)
        labelled, null = plain, plain
    else:
        label, nobody = _labels(label, null_label, x.shape[0])
        labelled, null = _both(call, x, sigma, label, nobody, wanted.labelled, unlabelled)
    perturbed = call(x, sigma, label, PERTURBED) if wanted.perturbed else None
    return Predictions(x, sigma, label, labelled, null, perturbed)


def _both(
    call: Call, x: Tensor, sigma: Tensor, label: Tensor, null: Tensor, labelled: Rows, unlabelled: Rows
) -> tuple[Tensor, Tensor]:
    """(D_label, D_null), from one network call on the rows that are wanted of each."""
    labelled = _static(_or(labelled, _not(unlabelled)))
    if labelled is False:
        plain = call(x, sigma, null)
        return plain, plain
    if labelled is True and unlabelled is True:
        both = call(torch.cat([x, x]), torch.cat([sigma, sigma]), torch.cat([label, null]))
        first, second = both.chunk(2)
        return first, second
    everyone = torch.arange(x.shape[0], device=x.device)
    with_label = everyone if labelled is True else everyone[labelled]
    without = everyone if unlabelled is True else everyone[unlabelled]
    rows = torch.cat([with_label, without])
    out = call(x[rows], sigma[rows], torch.cat([label[with_label], null[without]]))
    some, others = out.split([len(with_label), len(without)])
    # The order matters: each sample gets the prediction it lacks from the one it has.
    filled = out.new_empty(x.shape[0], *out.shape[1:])
    filled = filled.index_copy(0, without, others).index_copy(0, with_label, some)
    return filled, filled.index_copy(0, without, others)


def _labels(label: Tensor | None, null_label: Null | None, batch: int) -> tuple[Tensor, Tensor]:
    """The labels (or conditions) and as many that say nothing."""
    if null_label is None:
        raise UserError("this model has no labels, so there is nothing to guide by; drop the guidance")
    if label is None:
        raise UserError("guidance by labels needs a label for every sample; add --label")
    if callable(null_label):
        return label, null_label(label)
    if label.shape != (batch,):
        raise UserError(f"expected {batch} labels, one a sample, got shape {tuple(label.shape)}")
    return label, torch.full_like(label, null_label)


def _or(a: Rows, b: Rows) -> Rows:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a | b
    if isinstance(a, Tensor):
        return True if b is True else a
    return True if a is True else b


def _not(rows: Rows) -> Rows:
    return ~rows if isinstance(rows, Tensor) else not rows


def _static(rows: Rows) -> Rows:
    """A mask that holds for all or for none as a bool: the cheap paths then serve it."""
    if not isinstance(rows, Tensor):
        return rows
    if bool(rows.all()):
        return True
    return rows if bool(rows.any()) else False
