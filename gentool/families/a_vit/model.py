"""The transformer with its gate, and its two ways through: masked for gradients, dropping for speed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gentool.families.a_vit.config import AVitModel
from gentool.families.a_vit.dropping import Dropped, dropping
from gentool.families.a_vit.halting import Gate, Trace, masked
from gentool.networks.vit import ViT


class AdaptiveViT(nn.Module):
    """Logits of pictures (B, C, H, W) in [-1, 1] -> (B, classes).

    Attributes:
        gate: when tokens halt; None in a plain transformer.
        halts: (N,) which tokens may: the class token and the patches, not registers and distillation token.
    """

    halts: Tensor

    def __init__(self, config: AVitModel, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.network = ViT(config.network, (channels, height, width), classes)
        self.gate = None if config.halting is None else Gate(config.halting, config.network.depth)
        place = torch.arange(self.network.tokens)
        self.register_buffer("halts", (place == 0) | (place >= self.network.specials), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """By the masked network: of one shape throughout, for gradients and for export."""
        return self.logits(self.states(x))

    def states(self, x: Tensor) -> Tensor:
        """The readers' mean states (B, readers, d), before the last norm; differentiable."""
        if self.gate is not None:
            return self.trace(x).mean
        z = self.network.embed(x)
        for block in self.network.blocks:
            z = block(z)
        return z[:, : self.network.readers]

    def trace(self, x: Tensor) -> Trace:
        """The masked network; only of a gated one."""
        assert self.gate is not None
        return masked(self.network, self.gate, x)

    def dropped(self, x: Tensor, *, halting: bool = True) -> Dropped:
        """The dropping network, without gradients; with `halting` false, the same sums on all tokens."""
        return dropping(self.network, self.gate if halting else None, x)

    def features(self, x: Tensor) -> Tensor:
        """Features (B, readers d) before the logits: by dropping, where no gradient is wanted."""
        return self.network.read(self.states(x) if torch.is_grad_enabled() else self.dropped(x).mean)

    def logits(self, mean: Tensor) -> Tensor:
        """(B, classes) of mean readers (B, readers, d): the last norm comes after the mean."""
        return self.network.output(self.network.read(mean))

    @torch.no_grad()
    def place_gate(self, x: Tensor) -> None:
        """Sets the gate's center by the plain network's first coordinates on pictures, but for its last two blocks."""
        assert self.gate is not None
        z, first = self.network.embed(x), []
        for block in self.network.blocks[: max(1, len(self.network.blocks) - 2)]:
            z = block(z)
            first.append(z[..., 0])
        self.gate.place(torch.stack(first))
