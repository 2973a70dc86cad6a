"""The U-Net that DDPM++, NCSN++ and ADM are settings of.

Source: Song et al. 2021, Dhariwal and Nichol 2021; in the form of Karras et al. 2022 (EDM).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.errors import UserError
from gentool.networks.base import Features, Network
from gentool.networks.blocks import BlockStyle, FirDown, GroupNorm, ResBlock


class EncoderLevel(nn.Module):
    """Blocks of one resolution on the way down; `pyramid` halves the residual encoder's running input."""

    def __init__(self, down: ResBlock | None, pyramid: nn.Module | None, blocks: Sequence[ResBlock]) -> None:
        super().__init__()
        self.down, self.pyramid, self.blocks = down, pyramid, nn.ModuleList(blocks)

    def forward(self, h: Tensor, side: Tensor, emb: Tensor) -> tuple[list[Tensor], Tensor]:
        """The feature maps that the decoder will read, the last of which goes on, and the running input."""
        maps = []
        if self.down is not None:
            h = self.down(h, emb)
            if self.pyramid is not None:
                h = side = (h + self.pyramid(side)) * math.sqrt(0.5)
            maps.append(h)
        for block in self.blocks:
            h = block(h, emb)
            maps.append(h)
        return maps, side


class DecoderLevel(nn.Module):
    """Blocks of one resolution on the way up, each on the concatenation with a map of the encoder."""

    def __init__(self, up: ResBlock | None, blocks: Sequence[ResBlock]) -> None:
        super().__init__()
        self.up, self.blocks = up, nn.ModuleList(blocks)

    def forward(self, h: Tensor, maps: Sequence[Tensor], emb: Tensor) -> Tensor:
        """`maps`: one per block, in the order they are read."""
        if self.up is not None:
            h = self.up(h, emb)
        for block, skip in zip(self.blocks, maps):
            h = block(torch.cat([h, skip], dim=1), emb)
        return h


class UNet(Network):
    """Encoder, middle (block with attention, block) and decoder over a common embedding.

    Attention layers are named by resolution: `encoder.16x16.blocks.0.attention`, `middle.0.attention`,
    `decoder.16x16.blocks.4.attention`.

    Args:
        mapping: (c_noise, label, augment) -> emb (B, style.emb), before its activation.
        size: (H, W), both divisible by 2^(levels-1).
        attention: resolutions (shorter side) with attention.
        head_channels: channels per head; None for a single head.
        every: attention in every decoder block of a listed resolution instead of the last.
        residual: add the filtered pyramid of the input on the way down.
        stem: feature maps of the first convolution; None for `channels`.

    A network with other blocks (DDGAN's adaptive norms) overrides `block`, and calls `body` with whatever
    these take as their embedding.
    """

    block: ClassVar[type[ResBlock]] = ResBlock

    def __init__(
        self,
        mapping: nn.Module,
        style: BlockStyle,
        in_channels: int,
        out_channels: int,
        size: tuple[int, ...],
        *,
        channels: int,
        mult: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        head_channels: int | None = None,
        every: bool = False,
        residual: bool = False,
        stem: int | None = None,
    ) -> None:
        super().__init__()
        sizes = _level_sizes(size, len(mult), attention)
        widths = [channels * m for m in mult]

        def heads(level: int) -> int:
            if head_channels is None:
                return 1
            if widths[level] % head_channels:
                raise UserError(
                    f"attention at {_name(sizes[level])} needs a multiple of {head_channels} (head_channels) "
                    f"channels, but channels * mult is {widths[level]}"
                )
            return widths[level] // head_channels

        def attends(level: int) -> bool:
            return min(sizes[level]) in attention

        self.mapping = mapping
        width = stem or channels
        self.input = nn.Conv2d(in_channels, width, 3, padding=1)
        self.encoder = nn.ModuleDict()
        side, skips = in_channels, [width]
        for level, out in enumerate(widths):
            down = pyramid = None
            if level:
                down = self.block(width, width, style, resample="down")
                pyramid = _pyramid(side, width) if residual else None
                side = width
                skips.append(width)
            body = []
            for _ in range(blocks):
                body.append(self.block(width, out, style, heads=heads(level) if attends(level) else 0))
                width = out
                skips.append(width)
            self.encoder[_name(sizes[level])] = EncoderLevel(down, pyramid, body)

        self.middle = nn.ModuleList(
            [self.block(width, width, style, heads=heads(len(mult) - 1)), self.block(width, width, style)]
        )
        self.decoder = nn.ModuleDict()
        for level, out in reversed(list(enumerate(widths))):
            up = self.block(width, width, style, resample="up") if level < len(mult) - 1 else None
            body = []
            for i in range(blocks + 1):
                here = attends(level) and (every or i == blocks)
                body.append(self.block(width + skips.pop(), out, style, heads=heads(level) if here else 0))
                width = out
            self.decoder[_name(sizes[level])] = DecoderLevel(up, body)

        self.norm = GroupNorm(width, style.eps)
        self.output = nn.Conv2d(width, out_channels, 3, padding=1)
        self.per_level = blocks + 1

    def features(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Features:
        emb = self.mapping(c_noise, label, augment)
        last = self.body(x, F.silu(emb))
        return Features(self.output(F.silu(self.norm(last))), last, emb)

    def body(self, x: Tensor, emb: Tensor) -> Tensor:
        """Feature map before the output norm; `emb` goes to every block as it is."""
        h, side = self.input(x), x
        maps = [h]
        for down in self.encoder.values():
            new, side = down(h, side, emb)
            maps += new
            h = new[-1]
        for block in self.middle:
            h = block(h, emb)
        for up in self.decoder.values():
            h = up(h, maps[: -self.per_level - 1 : -1], emb)
            maps = maps[: -self.per_level]
        return h


def _name(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _pyramid(in_channels: int, out_channels: int) -> nn.Module:
    """conv3x3 then FIR down; the convolution also runs over the margin that the filter reads."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=2), FirDown(padding=0))


def _level_sizes(size: tuple[int, ...], levels: int, attention: Sequence[int]) -> list[tuple[int, int]]:
    """(H, W) of each level, finest first, or a `UserError` that says which levels or resolutions fit."""
    if len(size) != 2:
        raise UserError(f"a U-Net needs images; for vectors of length {size[0]} use the network film-mlp")
    height, width = size
    fitting = [
        n
        for n in range(1, min(size).bit_length() + 1)
        if not height % 2 ** (n - 1) and not width % 2 ** (n - 1)
    ]
    if levels not in fitting:
        raise UserError(
            f"images of {_name((height, width))} cannot be halved {levels - 1} times: "
            f"give `mult` {' or '.join(map(str, fitting))} entries instead of {levels}"
        )
    sizes = [(height >> level, width >> level) for level in range(levels)]
    missing = sorted(set(attention) - {min(s) for s in sizes}, reverse=True)
    if missing:
        raise UserError(
            f"attention at {', '.join(map(str, missing))} never happens: "
            f"the resolutions of this network are {', '.join(str(min(s)) for s in sizes)}"
        )
    return sizes
