"""The network with halted tokens really dropped: what is left lies packed, so that later blocks cost less.

The paper's speed counts dropped tokens, and its published code masks them; this does the same sums as the masked
network (`halting.masked`) on fewer rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gentool.families.a_vit.halting import Gate, accounted, halted
from gentool.families.a_vit.packing import Tile, through, tiled, without
from gentool.networks.vit import Block, ViT

SLACK = 1 / 16
"""Share of the rows that must have halted before the rest are packed anew; until then they are masked."""


@dataclass(frozen=True)
class Dropped:
    """What the dropping network did.

    Attributes:
        mean: (B, d) mean state of the class token, before the last norm.
        depth: (B, N) blocks each token went through: a picture's last when its class token halts.
        live: (depth, B) tokens that entered each block.
    """

    mean: Tensor
    depth: Tensor
    live: Tensor


@torch.no_grad()
def dropping(network: ViT, gate: Gate | None, x: Tensor) -> Dropped:
    """The masked network's result to rounding, in eval mode; without a gate, the plain network's.

    After each block the tokens that halted leave, and with its class token the picture, as soon as they are enough to
    be worth it. The rest are packed one picture after the other, sorted by their number.
    """
    embedded = network.embed(x)
    count, tokens = embedded.shape[:2]
    z = embedded.flatten(0, 1)
    blocks = [block for block in network.blocks if isinstance(block, Block)]
    if gate is None:
        tiles = tiles_of(network, np.full(count, tokens), z.device)
        for block in blocks:
            through(block, z, tiles)
        depth = torch.full((count, tokens), len(blocks), device=z.device)
        live = torch.full((len(blocks), count), tokens, device=z.device)
        return Dropped(z.view(embedded.shape)[:, 0], depth, live)
    packed = Packed(network, z, count)
    totals = torch.ones_like(gate(z[:1])).expand(len(blocks), count).contiguous()
    states = z.new_zeros(len(blocks), count, z.shape[1])
    for number, block in enumerate(blocks, 1):
        packed.enter(number)
        if not len(packed.z):
            break
        through(block, packed.z, packed.tiles)
        states[number - 1].index_copy_(0, packed.pictures, packed.z.index_select(0, packed.heads))
        if number < len(blocks):
            packed.score(gate)
            totals[number - 1].index_copy_(0, packed.pictures, packed.total.index_select(0, packed.heads))
            packed.leave(gate, number)
    weights = accounted(totals, gate).weights
    mean = (weights[..., None].to(z.dtype) * states).sum(0)
    live = torch.from_numpy(packed.live).to(z.device)
    return Dropped(mean, packed.depth.view(count, tokens), live)


def tiles_of(network: ViT, lengths: np.ndarray, device: torch.device) -> list[Tile]:
    return tiled(lengths.tolist(), network.config.mlp_ratio * network.config.width, device)


class Packed:
    """The tokens that are left of some pictures, packed: tokens' tensors on the device, pictures' on the host.

    Attributes:
        z: (T, d). total: (T,) their scores so far. row: (T,) their places among all tokens of all pictures.
        pictures: (C,) those that are left, sorted by their numbers of tokens. heads: (C,) rows of their class tokens.
        depth: (count tokens,) blocks each token went through.
        live: (blocks, count) tokens that entered each block.
    """

    def __init__(self, network: ViT, z: Tensor, count: int) -> None:
        self.network, self.z, self.row = network, z, torch.arange(len(z), device=z.device)
        self.total = z.new_zeros(len(z), dtype=torch.promote_types(z.dtype, torch.float32))
        self.stays = torch.ones_like(self.row, dtype=torch.bool)
        self.depth = torch.full_like(self.row, len(network.blocks))
        self.live = np.zeros((len(network.blocks), count), dtype=np.int64)
        self.left = np.full(count, len(z) // count)
        self._lay(np.arange(count), self.left)

    def _lay(self, pictures: np.ndarray, lengths: np.ndarray) -> None:
        """The rows are now those of these pictures, so many each."""
        self._pictures, self.lengths, self.stops = pictures, lengths, lengths.cumsum()
        device = self.z.device
        self.pictures = torch.from_numpy(pictures).to(device)
        self.heads = torch.from_numpy(self.stops - lengths).to(device)
        self.lasts = torch.from_numpy(self.stops - 1).to(device)
        self.tiles = tiles_of(self.network, lengths, device) if len(lengths) else []

    def enter(self, number: int) -> None:
        """Counts the tokens that enter a block."""
        self.live[number - 1, self._pictures] = self.left

    def score(self, gate: Gate) -> None:
        """Adds the scores after one more block; registers have none."""
        score = gate(self.z)
        if self.network.specials > 1:
            place = self.row % self.network.tokens
            score = torch.where((place > 0) & (place < self.network.specials), 0.0, score)
        self.total += score

    def leave(self, gate: Gate, number: int) -> None:
        """Lets the tokens go that have halted after a block, and all of a picture whose class token has."""
        stays = ~halted(self.total, gate)
        ends = halted(self.total.index_select(0, self.heads), gate)
        if ends.any():
            over = ends.repeat_interleave(torch.from_numpy(self.lengths).to(ends.device))
            stays = stays & ~over
            self.total = torch.where(over, 1.0, self.total)
        sums = stays.cumsum(0).index_select(0, self.lasts).cpu().numpy()
        left = np.diff(sums, prepend=0)
        if sums[-1] == self.left.sum():
            return
        gone = self.stays & ~stays
        self.depth[self.row[gone]] = number
        self.left = left
        if 0 < len(stays) - sums[-1] < SLACK * len(stays):
            self.stays, self.tiles = stays, without(self.tiles, stays)
            return
        self._pack(stays, sums - left)

    def _pack(self, stays: Tensor, starts: np.ndarray) -> None:
        """Goes on with the rows that stay, sorted by pictures' lengths; `starts` (C,) say where each picture's begin."""
        order = self.left.argsort(kind="stable")[np.count_nonzero(self.left == 0) :]
        lengths = self.left[order]
        moves = (starts[order] - (lengths.cumsum() - lengths)).repeat(lengths)
        sources = torch.from_numpy(moves + np.arange(len(moves))).to(stays.device)
        rows = stays.nonzero().squeeze(1).index_select(0, sources)
        self.z, self.total, self.row = (t.index_select(0, rows) for t in (self.z, self.total, self.row))
        self.stays, self.left = torch.ones_like(self.row, dtype=torch.bool), lengths
        self._lay(self._pictures[order], lengths)
