"""What the label heads learn from: pictures with label maps, and which of their pixels each head sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gentool.families.editgan.heads import LabelHeads
from gentool.families.editgan.stopping import HELD_OUT
from gentool.families.editgan.view import View

AT_ONCE = 4
"""Pictures whose features are in memory together: those of all would not fit."""


@dataclass(frozen=True)
class Lessons:
    """Attributes:
    codes: (N, styles, width) of samples, or of photos that were inverted; or photos (N, C, H, W) in [-1, 1], whose
        codes are what the encoder makes of them by then.
    read: the label maps (n, H, W) int64 of the pictures (n, C, H, W) of these of them (n,).
    held_out: (N, H, W) bool, pixels that heads do not learn from.
    classes: how many there are.
    """

    codes: Tensor
    read: Callable[[Tensor, Tensor], Tensor]
    held_out: Tensor
    classes: int

    @torch.no_grad()
    def features(self, view: View, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, H, W, D) and label maps (n, H, W) of these pictures (n,)."""
        ws = self.codes[rows] if self.codes.dim() == 3 else view.encode(self.codes[rows])
        made, features = view.features(ws)
        return features.movedim(1, -1), self.read(rows, made)

    def steps(self, pixels: int) -> int:
        """Of one pass over the pixels that are learnt from, so many a step."""
        return max(1, -(-int((~self.held_out).sum()) // pixels))

    def counts(self, view: View) -> Tensor:
        """(K,) pixels of each class over all label maps."""
        found = [self.features(view, rows)[1].flatten() for rows in self._parts()]
        return torch.bincount(torch.cat(found), minlength=self.classes)

    def draw(self, view: View, heads: int, pixels: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Features (heads, P, D) and labels (heads, P) of each head's own choice, of every class alike.

        Features are made anew for a few of the pictures in every step.
        """
        rows = torch.randperm(len(self.codes), generator=rng, device=rng.device)[:AT_ONCE]
        features, known = (found[~self.held_out[rows]] for found in self.features(view, rows))
        chance = self._weights(known).expand(heads, -1)
        chosen = torch.multinomial(chance, pixels, replacement=True, generator=rng)
        return features[chosen], known[chosen]

    @torch.no_grad()
    def held_out_losses(self, view: View, heads: LabelHeads) -> Tensor:
        """(heads,) cross-entropies of the pixels held out, every class weighing alike, by heads in eval mode."""
        training, losses, labels = heads.training, [], []
        heads.eval()
        for rows in self._parts():
            features, known = (found[self.held_out[rows]] for found in self.features(view, rows))
            losses.append(
                torch.stack([F.cross_entropy(h(features), known, reduction="none") for h in heads.heads])
            )
            labels.append(known)
        heads.train(training)
        weights = self._weights(torch.cat(labels))
        return (torch.cat(losses, 1) * weights).sum(1) / weights.sum()

    def _weights(self, labels: Tensor) -> Tensor:
        """(P,) of labels (P,), summing to 1 over each class that is there."""
        return (1.0 / torch.bincount(labels, minlength=self.classes).clamp(min=1))[labels]

    def _parts(self) -> tuple[Tensor, ...]:
        return torch.arange(len(self.codes), device=self.codes.device).split(AT_ONCE)


def held_out_pixels(count: int, size: int, *, some: bool) -> Tensor:
    """(N, size, size) bool: one pixel in `HELD_OUT`, always the same ones, or none."""
    draws = torch.rand(count, size, size, generator=torch.Generator().manual_seed(0))
    return (draws < 1 / HELD_OUT) & some
