"""What a trained run sees in codes and pictures: the generator's pictures, the heads' labels, the encoder's codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from gentool.families.editgan.encoder import Encoder
from gentool.families.editgan.heads import LabelHeads, mean_logits, stack_features
from gentool.networks.stylegan2 import Generator, LayerNoise


@dataclass(frozen=True)
class View:
    """All differentiable.

    Attributes:
        size: of the pictures.
        planes: each layer's noise, (B, 1, r, r), for the B pictures whose codes are given; None: the generator's own,
            the same for all.
    """

    generator: Generator
    heads: LabelHeads
    encoder: Encoder
    size: int
    planes: Sequence[Tensor] | None = None

    def render(self, ws: Tensor) -> Tensor:
        """W+ (B, styles, width) -> pictures (B, C, H, W)."""
        made: Tensor = self.generator.synthesis(ws, self._noise())
        return made.float()

    def features(self, ws: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures and the stacked features (B, D, H, W) of one pass."""
        maps: list[Tensor] = []

        def keep(name: str, x: Tensor) -> Tensor:
            maps.append(x)
            return x

        made = self.generator.synthesis(ws, self._noise(), keep)
        return made.float(), stack_features(maps, self.size)

    def render_labelled(self, ws: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures, and the heads' mean logits (B, K, H, W)."""
        made, features = self.features(ws)
        return made, mean_logits(self.heads(features))

    def render_region(self, ws: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures, and the heads' mean logits (P, K) of the pixels of a region (B, H, W) bool alone.

        Heads on every pixel are most of the work of an edit, and its region is a small part.
        """
        made, features = self.features(ws)
        return made, mean_logits(self.heads.of_pixels(features.movedim(1, -1)[region]))

    def encode(self, x: Tensor) -> Tensor:
        """W+ of pictures in [-1, 1]."""
        found: Tensor = self.encoder(x)
        return found

    def mean_codes(self, count: int) -> Tensor:
        """W+ of the mean picture, so many times."""
        return self.generator.mapping.w_avg.repeat(count, self.generator.synthesis.num_ws, 1)

    def spread(self) -> float:
        """Root mean square distance of samples' w from their mean."""
        draws = torch.Generator().manual_seed(0)
        z = torch.randn(10_000, self.generator.latent, generator=draws)
        with torch.no_grad():
            w = self.generator.mapping(z.to(self.generator.mapping.w_avg))
        return float((w - w.mean(0)).square().sum(1).mean().sqrt())

    def own_planes(self, count: int) -> list[Tensor]:
        """The generator's noise, (B, 1, r, r) a layer."""
        buffers = self.generator.synthesis.named_buffers()
        kept = [plane for name, plane in buffers if name.endswith("noise_const")]
        return [plane.expand(count, 1, *plane.shape).clone() for plane in kept]

    def with_planes(self, planes: Sequence[Tensor]) -> View:
        return replace(self, planes=planes)

    def rows(self, where: Tensor) -> View:
        """For these of the pictures (B,) bool."""
        return self if self.planes is None else self.with_planes([plane[where] for plane in self.planes])

    def _noise(self) -> LayerNoise:
        return "const" if self.planes is None else self.planes


def feature_channels(generator: Generator) -> int:
    """How many features a pixel has: those of the constant and of every convolution."""
    blocks = [b for name, b in generator.synthesis.named_children() if name.startswith("b")]
    convs = [conv for block in blocks for conv in cast(Any, block).layers.values()]
    return cast(int, convs[0].weight.shape[0]) + sum(conv.weight.shape[0] for conv in convs)
