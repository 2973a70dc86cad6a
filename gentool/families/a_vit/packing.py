"""Pictures of unlike numbers of tokens through a block, their tokens packed one picture after the other.

Projections, norms and MLPs see rows, whoever's they are; attention sees pictures of equal length together. The rows are
worked off in tiles that stay in a processor's cache, and in place: nothing is allocated twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gentool.families.a_vit.halting import OUT
from gentool.networks.attention import SelfAttention
from gentool.networks.vit import Block

CACHED = 2**19
"""Numbers of the MLP's hidden layer in a tile on a CPU: 2 MiB."""
LEAST = 256
"""Rows of equally long pictures, from which on they are attended apart: below, a call costs more than padding."""
GROUPS = 4
"""Groups at most on another device, where each call costs as much as many rows."""
WIDE = 16
"""Keys whose softmax a CPU takes at once; those over a multiple of it, it takes one by one, several times slower."""
FEW = 4
"""Keys that are not filled up to `WIDE`."""


@dataclass(frozen=True)
class Group:
    """Rows start .. stop of packed tokens: the pictures of one attention.

    Attributes:
        shape: pictures, and the tokens of each, padded where they differ.
        rows: (pictures tokens,) the row, counted from `start`, that lies in each place of the padded pictures, any one
            in an empty place; None where the rows fill them.
        slots: (stop - start,) the place of each row; None likewise.
        beside: how many rows before and after a picture's own are read as keys too: what the bias takes out costs less
            than a number of keys that `WIDE` does not divide.
        bias: (pictures or 1, 1, 1, keys) on the logits, takes out what is no key of a picture's; None: all are.
    """

    start: int
    stop: int
    shape: tuple[int, int]
    rows: Tensor | None = None
    slots: Tensor | None = None
    beside: tuple[int, int] = (0, 0)
    bias: Tensor | None = None


@dataclass(frozen=True)
class Tile:
    """Neighbouring groups, whose rows go through a block together.

    Attributes:
        first, last: the rows that are projected for the attention: the groups' and those that are read beside them.
    """

    groups: tuple[Group, ...]
    first: int
    last: int

    @property
    def start(self) -> int:
        return self.groups[0].start

    @property
    def stop(self) -> int:
        return self.groups[-1].stop


def tiled(lengths: np.ndarray, hidden: int, device: torch.device) -> list[Tile]:
    """Tiles of pictures of these numbers of tokens (pictures,), sorted by them, for MLPs of so many hidden units."""
    total = int(lengths.sum())
    if device.type != "cpu":
        groups = grouped(lengths, max(LEAST, -(-total // GROUPS)), total, device)
        return [Tile(tuple(groups), 0, total)]
    most = max(1, CACHED // hidden)
    tiles: list[list[Group]] = [[]]
    for group in grouped(lengths, LEAST, most, device):
        if tiles[-1] and group.stop - tiles[-1][0].start > most:
            tiles.append([])
        tiles[-1].append(group)
    return [widened(tile, total, device) for tile in tiles]


def grouped(lengths: np.ndarray, least: int, most: int, device: torch.device) -> list[Group]:
    """Runs of one length, those of fewer than `least` rows with their neighbours, none of more than `most` rows."""
    groups: list[Group] = []
    own, stops, first, start = lengths.tolist(), lengths.cumsum().tolist(), 0, 0
    for i, (length, stop) in enumerate(zip(own, stops)):
        last = i + 1 == len(own)
        if last or stops[i + 1] - start > most or (length != own[i + 1] and stop - start >= least):
            groups.append(group_of(lengths[first : i + 1], start, device))
            first, start = i + 1, stop
    return groups


def group_of(lengths: np.ndarray, start: int, device: torch.device) -> Group:
    """The group of pictures of these lengths, sorted, from row `start` on; padded if they differ."""
    ends, size = lengths.cumsum(), int(lengths[-1])
    stop = start + int(ends[-1])
    if lengths[0] == size:
        return Group(start, stop, (len(lengths), size))
    size = wide(size)
    held = np.arange(size) < lengths[:, None]
    rows = np.where(held, (ends - lengths)[:, None] + np.arange(size), 0)
    bias = torch.from_numpy(np.where(held, np.float32(0), np.float32(OUT))).to(device)
    return Group(
        start,
        stop,
        (len(lengths), size),
        torch.from_numpy(rows.ravel()).to(device),
        torch.from_numpy(held.ravel().nonzero()[0]).to(device),
        bias=bias[:, None, None],
    )


def wide(size: int) -> int:
    """So many keys, filled up to a multiple of `WIDE`."""
    return size if size < FEW else -(-size // WIDE) * WIDE


def widened(groups: Sequence[Group], total: int, device: torch.device) -> Tile:
    """A tile whose unpadded groups read keys beside their own, where of `total` rows there are enough."""
    more = WIDE - 1
    first, last = groups[0].start, groups[-1].stop
    first, last = (first, min(last + more, total)) if last < total else (max(0, first - more), last)
    found = []
    for group in groups:
        own = group.shape[1]
        extra = 0 if group.rows is not None else wide(own) - own
        beside = (0, extra) if group.stop + extra <= last else (extra, 0)
        if extra and group.start - beside[0] >= first:
            bias = F.pad(torch.zeros(1, own, device=device), beside, value=OUT)[:, None, None]
            group = replace(group, beside=beside, bias=bias)
        found.append(group)
    return Tile(tuple(found), first, last)


def without(tiles: Sequence[Tile], live: Tensor) -> list[Tile]:
    """The same tiles, whose rows that are not live (T,) are nobody's keys."""
    keys = torch.where(live, 0.0, OUT)
    return [
        replace(tile, groups=tuple(closed(group, keys[group.start : group.stop]) for group in tile.groups))
        for tile in tiles
    ]


def closed(group: Group, keys: Tensor) -> Group:
    if group.slots is None:
        bias = F.pad(keys.unflatten(0, group.shape), group.beside, value=OUT)
    else:
        bias = keys.new_full((group.shape[0] * group.shape[1],), OUT)
        bias = bias.index_copy_(0, group.slots, keys).unflatten(0, group.shape)
    return replace(group, bias=bias[:, None, None])


def through(block: Block, z: Tensor, tiles: Sequence[Tile]) -> None:
    """A block in eval mode on packed tokens z (T, d), in place."""
    for tile in tiles:
        own = z[tile.start : tile.stop]
        own += block.attn.proj(attended(block.attn, block.norm1(z[tile.first : tile.last]), tile))
        own += block.mlp(block.norm2(own))


def attended(attention: SelfAttention, z: Tensor, tile: Tile) -> Tensor:
    """The heads' averages (R, d) within each picture of a tile, of its normalised rows and those beside them."""
    qkv = attention.qkv(z)
    parts = [within(qkv, group.start - tile.first, attention.heads, group) for group in tile.groups]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def within(qkv: Tensor, start: int, heads: int, group: Group) -> Tensor:
    """Those of a group that begins at row `start` of projected rows (R, 3 d).

    Fused on every device: nothing is differentiated here.
    """
    (pictures, tokens), (before, after) = group.shape, group.beside
    if group.rows is not None:
        qkv, start = qkv[start : start + group.stop - group.start].index_select(0, group.rows), 0
    row, width = qkv.stride(0), qkv.shape[1] // (3 * heads)

    def part(which: int, at: int, count: int) -> Tensor:
        """(pictures, heads, count, width): rows from `at` on, of every picture so many, where they may overlap."""
        strides = (tokens * row, width, row, 1)
        return qkv.as_strided((pictures, heads, count, width), strides, at * row + which * heads * width)

    keys = before + tokens + after
    q, k, v = part(0, start, tokens), part(1, start - before, keys), part(2, start - before, keys)
    bias = None if group.bias is None else group.bias.to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(0, 1).flatten(1)
    return out if group.slots is None else out.index_select(0, group.slots)
