"""Pictures of unlike numbers of tokens through a block, their tokens packed one picture after the other.

Projections, norms and MLPs see rows, whoever's they are; attention sees pictures of about equal length together. The
rows are worked off in tiles that stay in a processor's cache, and in place: nothing is allocated twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

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


@dataclass(frozen=True)
class Group:
    """Rows start .. stop of packed tokens: the pictures of one attention.

    Attributes:
        shape: pictures, and the longest one's tokens.
        slots: (stop - start,) places of the rows in the padded pictures, flattened; None where they fill them.
        bias: (pictures, 1, 1, tokens) on the logits, takes the empty places out; None where there are none.
    """

    start: int
    stop: int
    shape: tuple[int, int]
    slots: Tensor | None = None
    bias: Tensor | None = None


Tile = tuple[Group, ...]
"""Neighbouring groups, whose rows go through a block together."""


def tiled(lengths: Sequence[int], hidden: int, device: torch.device) -> list[Tile]:
    """Tiles of pictures of these numbers of tokens, sorted by them, for MLPs of so many hidden units."""
    rows = sum(lengths)
    most = max(1, CACHED // hidden) if device.type == "cpu" else rows
    least = LEAST if device.type == "cpu" else max(LEAST, rows // GROUPS)
    tiles: list[Tile] = []
    groups: list[Group] = []
    for group in grouped(lengths, least, most, device):
        if groups and group.stop - groups[0].start > most:
            tiles.append(tuple(groups))
            groups = []
        groups.append(group)
    return [*tiles, tuple(groups)]


def grouped(lengths: Sequence[int], least: int, most: int, device: torch.device) -> list[Group]:
    """Runs of equal length, those of fewer than `least` rows with their neighbours, none of more than `most` rows."""
    groups: list[Group] = []
    own: list[int] = []
    start = 0

    def close() -> None:
        nonlocal own, start
        groups.append(group_of(own, start, device))
        start, own = groups[-1].stop, []

    for length, run in groupby(lengths):
        left = len(list(run))
        if sum(own) >= least:
            close()
        while left:
            taken = min(left, max(0 if own else 1, (most - sum(own)) // length))
            own += [length] * taken
            left -= taken
            if left:
                close()
    close()
    return groups


def group_of(lengths: list[int], start: int, device: torch.device) -> Group:
    """The group of pictures of these lengths, sorted, from row `start` on."""
    shape, stop = (len(lengths), lengths[-1]), start + sum(lengths)
    if lengths[0] == lengths[-1]:
        return Group(start, stop, shape)
    held = torch.from_numpy(np.arange(shape[1]) < np.array(lengths)[:, None]).to(device)
    slots = held.flatten().nonzero().squeeze(1)
    return Group(start, stop, shape, slots, torch.where(held, 0.0, OUT)[:, None, None])


def without(tiles: Sequence[Tile], live: Tensor) -> list[Tile]:
    """The same tiles, whose rows that are not live (T,) are nobody's keys."""
    keys = torch.where(live, 0.0, OUT)
    return [tuple(closed(group, keys[group.start : group.stop]) for group in tile) for tile in tiles]


def closed(group: Group, keys: Tensor) -> Group:
    if group.slots is None:
        bias = keys.unflatten(0, group.shape)
    else:
        bias = keys.new_full((group.shape[0] * group.shape[1],), OUT)
        bias = bias.index_copy_(0, group.slots, keys).unflatten(0, group.shape)
    return replace(group, bias=bias[:, None, None])


def through(block: Block, z: Tensor, tiles: Sequence[Tile]) -> None:
    """A block in eval mode on packed tokens z (T, d), in place."""
    for tile in tiles:
        own = z[tile[0].start : tile[-1].stop]
        own += block.attn.proj(attended(block.attn, block.norm1(own), tile))
        own += block.mlp(block.norm2(own))


def attended(attention: SelfAttention, z: Tensor, tile: Tile) -> Tensor:
    """The heads' averages within each picture of a tile's rows (R, d)."""
    qkv = attention.qkv(z)
    parts = [within(qkv[g.start - tile[0].start : g.stop - tile[0].start], attention.heads, g) for g in tile]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def within(qkv: Tensor, heads: int, group: Group) -> Tensor:
    """Those of a group's projected rows (R, 3 d). Fused throughout: there are no gradients that a kernel must know."""
    if group.slots is not None:
        padded = qkv.new_zeros(group.shape[0] * group.shape[1], qkv.shape[1])
        qkv = padded.index_copy_(0, group.slots, qkv)
    q, k, v = qkv.view(*group.shape, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    bias = None if group.bias is None else group.bias.to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(0, 1).flatten(1)
    return out if group.slots is None else out.index_select(0, group.slots)
