"""Classifiers of attributes on latents (arXiv 2110.10873, appendix B)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class LatentClassifier(nn.Module):
    """A trunk of linear layers whose widths fall evenly, LeakyReLU(0.2) after each, and one head an attribute.

    Args:
        inputs: dimensions of the latent.
        depth: widths from `inputs` to `width`, both counted: depth - 1 layers and the heads.
        outputs: of each head: its classes, 1 for a number.

    Attributes:
        ranges: (A, 2) what 0 and 1 are of each attribute, in its own units.
        labellers: (A, 32) SHA-256 of the classifier that gave each attribute's labels; zeros for the others.
    """

    ranges: Tensor
    labellers: Tensor

    def __init__(self, inputs: int, depth: int, width: int, outputs: Mapping[str, int]) -> None:
        super().__init__()
        self.names = tuple(outputs)
        sizes = [
            int(n) for n in torch.linspace(inputs, width, depth).tolist()
        ]  # the first layer keeps the width
        layers: list[nn.Module] = []
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), nn.LeakyReLU(0.2)]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({name: nn.Linear(sizes[-1], n) for name, n in outputs.items()})
        self.register_buffer("ranges", torch.tensor([[0.0, 1.0]] * len(outputs)))
        self.register_buffer("labellers", torch.zeros(len(outputs), 32, dtype=torch.uint8))

    def forward(self, w: Tensor) -> dict[str, Tensor]:
        """w (B, inputs) -> by attribute, logits (B, classes) or a number (B, 1)."""
        found = self.trunk(w)
        return {name: head(found) for name, head in self.heads.items()}

    def scaled(self, name: str, value: Tensor) -> Tensor:
        """An attribute's own units -> [0, 1]."""
        low, high = self.ranges[self.names.index(name)]
        return ((value - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)

    def digests(self) -> dict[str, str]:
        """The labellers' SHA-256 by attribute, of those that have one."""
        found = {name: bytes(row.tolist()).hex() for name, row in zip(self.names, self.labellers)}
        return {name: digest for name, digest in found.items() if digest.strip("0")}

    def remember(
        self, name: str, *, low: float | None = None, high: float | None = None, digest: str = ""
    ) -> None:
        """Keeps an attribute's range, or its labeller's digest."""
        row = self.names.index(name)
        if low is not None and high is not None:
            self.ranges[row] = torch.tensor([low, high])
        if digest:
            self.labellers[row] = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)


def masked_losses(outputs: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
    """(B,) cross-entropies and half squared errors, summed over the attributes that are known (label not below 0)."""
    found: Sequence[Tensor] = [
        torch.where(label >= 0, _loss(outputs[name], label.clamp(min=0)), 0) for name, label in labels.items()
    ]
    return torch.stack(list(found)).sum(0)


def _loss(output: Tensor, label: Tensor) -> Tensor:
    if output.shape[1] == 1:
        return (output[:, 0] - label).square() / 2
    return nn.functional.cross_entropy(output, label.long(), reduction="none")
