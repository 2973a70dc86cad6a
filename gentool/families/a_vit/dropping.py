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
from gentool.networks.vit import Block, ViT, multiply_adds

PACKING = {"cpu": 6e6}
"""Multiply-adds of a block in the time that packing anew takes, about 0.25 ms."""
PACKING_ELSEWHERE = 1e10
"""The same of a device that is fed by another: half a millisecond at 2e13 a second."""
GATHER = 1 / 16
"""What packing takes for each row, in blocks."""


@dataclass(frozen=True)
class Dropped:
    """What the dropping network did.

    Attributes:
        mean: (B, readers, d) mean states of the class token and others that are read, before the last norm.
        depth: (B, N) blocks each token went through: a picture's last when its class token halts.
        live: (depth, B) tokens that entered each block.
    """

    mean: Tensor
    depth: Tensor
    live: Tensor


@torch.no_grad()
def dropping(network: ViT, gate: Gate | None, x: Tensor) -> Dropped:
    """The masked network's result to rounding, in eval mode; without a gate, the plain network's.

    After each block the tokens that halted leave, and with its class token the picture. The rest are packed one picture
    after the other, sorted by their number, once going on with those that left has cost as much: at most twice what
    packing at the best time would. Until then they are masked.
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
        return Dropped(z.view(embedded.shape)[:, : network.readers], depth, live)
    packed = Packed(network, z, count)
    totals = torch.ones_like(packed.total[:1]).expand(len(blocks), count).contiguous()
    states = z.new_zeros(len(blocks), count, network.readers, z.shape[1])
    for number, block in enumerate(blocks, 1):
        packed.enter(number)
        if not len(packed.z):
            break
        through(block, packed.z, packed.tiles)
        read = packed.z.index_select(0, packed.readers).view(-1, *states.shape[2:])
        states[number - 1].index_copy_(0, packed.owners, read)
        if number < len(blocks):
            packed.score(gate)
            totals[number - 1].index_copy_(0, packed.owners, packed.total.index_select(0, packed.heads))
            packed.leave(gate, number)
    weights = accounted(totals, gate).weights
    mean = (weights[..., None, None].to(z.dtype) * states).sum(0)
    depth, live = (torch.from_numpy(found).to(z.device) for found in (packed.depth, packed.live))
    return Dropped(mean, depth.view(count, tokens), live)


def tiles_of(network: ViT, lengths: np.ndarray, device: torch.device) -> list[Tile]:
    return tiled(lengths, network.config.mlp_ratio * network.config.width, device)


class Packed:
    """The tokens that are left of some pictures, packed one picture after the other.

    States and scores lie on the device; which rows are whose is kept on the host, where small sums are quick.

    Attributes:
        z: (T, d). total: (T,) their scores so far.
        owners: (C,) pictures that are left, sorted by their numbers of tokens. heads: (C,) rows of their class tokens.
        readers: (C readers,) rows of the tokens that are read, each picture's together.
        depth: (count tokens,) blocks each token went through.
        live: (blocks, count) tokens that entered each block.
    """

    def __init__(self, network: ViT, z: Tensor, count: int) -> None:
        self.network, self.z = network, z
        self.total = z.new_zeros(len(z), dtype=torch.promote_types(z.dtype, torch.float32))
        row = float(multiply_adds(network.config, torch.tensor(network.tokens))) / network.tokens
        self._price = PACKING.get(z.device.type, PACKING_ELSEWHERE) / row
        self.depth = np.full(len(z), len(network.blocks))
        self.live = np.zeros((len(network.blocks), count), dtype=np.int64)
        self._lay(np.arange(len(z)), np.arange(count), np.full(count, len(z) // count))

    def _lay(self, places: np.ndarray, pictures: np.ndarray, lengths: np.ndarray) -> None:
        """The rows are those of these pictures, so many each, and of these places among all tokens."""
        self._places, self._pictures, self._lengths, self._left = places, pictures, lengths, lengths
        self._heads = lengths.cumsum() - lengths
        self._stays, self._wasted = np.ones(len(places), dtype=bool), 0
        self.owners, self.heads = self._sent(pictures), self._sent(self._heads)
        self.readers = self._sent((self._heads[:, None] + np.arange(self.network.readers)).ravel())
        self.tiles = tiles_of(self.network, lengths, self.z.device) if len(lengths) else []

    def _sent(self, indices: np.ndarray) -> Tensor:
        return torch.from_numpy(indices).to(self.z.device)

    def enter(self, number: int) -> None:
        """Counts the tokens that enter a block."""
        self.live[number - 1, self._pictures] = self._left

    def score(self, gate: Gate) -> None:
        """Adds the scores after one more block; registers have none."""
        score = gate(self.z)
        if self.network.specials > 1:
            place = self._places % self.network.tokens
            score[self._sent(((place > 0) & (place < self.network.specials)).nonzero()[0])] = 0.0
        self.total += score

    def leave(self, gate: Gate, number: int) -> None:
        """Lets the tokens go that have halted after a block, and all of a picture whose class token has."""
        stays = ~halted(self.total, gate).cpu().numpy()
        stays &= self._stays
        if not stays[self._heads].all():
            stays &= stays[self._heads].repeat(self._lengths)
        left = np.add.reduceat(stays, self._heads, dtype=np.int64)
        kept = int(left.sum())
        changed = kept < self._left.sum()
        if changed:
            self.depth[self._places[self._stays & ~stays]] = number
            self._stays, self._left = stays, left
        self._wasted += len(stays) - kept
        if not kept or self._wasted > self._price + GATHER * len(stays):
            self._pack()
        elif changed:
            self.tiles = without(self.tiles, self._sent(stays))

    def _pack(self) -> None:
        """Goes on with the rows that stay, the pictures sorted by their number."""
        order = self._left.argsort(kind="stable")[np.count_nonzero(self._left == 0) :]
        lengths = self._left[order]
        starts = (self._left.cumsum() - self._left)[order]
        sources = (starts - (lengths.cumsum() - lengths)).repeat(lengths) + np.arange(lengths.sum())
        rows = self._stays.nonzero()[0][sources]
        kept = self._sent(rows)
        self.z, self.total = self.z.index_select(0, kept), self.total.index_select(0, kept)
        self._lay(self._places[rows], self._pictures[order], lengths)
