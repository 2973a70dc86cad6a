"""An ensemble of per-pixel classifiers on a generator's features, and what its members disagree about.

Ling et al. 2021 (EditGAN, 2111.03186), section 3.1; the heads are those of Zhang et al. 2021 (DatasetGAN, 2104.06490).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def stack_features(maps: list[Tensor], size: int) -> Tensor:
    """Maps (B, C_i, r_i, r_i), up-sampled bilinearly and joined: (B, sum C_i, size, size)."""
    return torch.cat(
        [
            m if m.shape[-1] == size else F.interpolate(m, (size, size), mode="bilinear", align_corners=False)
            for m in maps
        ],
        dim=1,
    )


def head_widths(classes: int) -> tuple[int, int]:
    """The published widths of a head's two hidden layers."""
    return (128, 32) if classes < 32 else (256, 128)


class PixelHead(nn.Sequential):
    """(N, inputs) -> (N, classes): Linear, ReLU, BatchNorm twice, Linear; weights N(0, 0.02), biases 0."""

    def __init__(self, inputs: int, hidden: tuple[int, int], classes: int) -> None:
        a, b = hidden
        super().__init__(
            nn.Linear(inputs, a),
            nn.ReLU(),
            nn.BatchNorm1d(a),
            nn.Linear(a, b),
            nn.ReLU(),
            nn.BatchNorm1d(b),
            nn.Linear(b, classes),
        )
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)


class LabelHeads(nn.Module):
    """The ensemble.

    Attributes:
        seen: (K,) bool, classes that there was something to learn of; the others are never predicted.
    """

    seen: Tensor

    def __init__(self, count: int, inputs: int, hidden: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(PixelHead(inputs, hidden, classes) for _ in range(count))
        self.register_buffer("seen", torch.ones(classes, dtype=torch.bool))

    def losses(self, pixels: Tensor, labels: Tensor, which: Sequence[int]) -> Tensor:
        """(n,) cross-entropies of these of the heads, each of its own pixels.

        Args:
            pixels: (n, N, D).
            labels: (n, N) int64.
        """
        return torch.stack(
            [F.cross_entropy(self.heads[k](x), y) for k, x, y in zip(which, pixels, labels, strict=True)]
        )

    def forward(self, features: Tensor) -> Tensor:
        """Logits (heads, B, K, H, W) of features (B, D, H, W); those of classes never seen are -inf."""
        batch, _, high, wide = features.shape
        found = self.of_pixels(features.movedim(1, -1).flatten(0, 2))
        return found.unflatten(1, (batch, high, wide)).movedim(-1, 2)

    def of_pixels(self, rows: Tensor) -> Tensor:
        """Logits (heads, P, K) of pixels' features (P, D)."""
        found = torch.stack([head(rows) for head in self.heads])
        return found.masked_fill(~self.seen, -torch.inf)


def mean_logits(logits: Tensor) -> Tensor:
    """What edits are led by: (B, K, H, W) of logits (heads, B, K, H, W), (P, K) of (heads, P, K)."""
    return logits.mean(0)


def uncertainty(logits: Tensor) -> Tensor:
    """(B, H, W) Jensen-Shannon divergence of the heads in nats: H(mean p) - mean H(p), in [0, ln heads].

    Args:
        logits: (heads, B, K, H, W).
    """
    p = logits.softmax(2)
    return (entropy(p.mean(0), 1) - entropy(p, 2).mean(0)).clamp(min=0)


def entropy(p: Tensor, dim: int) -> Tensor:
    """In nats."""
    return torch.special.entr(p).sum(dim)


def worst_mean(values: Tensor, share: float = 0.1) -> Tensor:
    """(B,) mean of the largest tenth of each row's values (B, ...): a picture's uncertainty from its pixels'."""
    flat = values.flatten(1)
    return flat.topk(max(1, round(share * flat.shape[1])), dim=1).values.mean(1)
