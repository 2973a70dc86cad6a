"""The network with halted tokens really dropped: what is left lies packed, so that later blocks cost less.

The paper's speed counts dropped tokens, and its published code masks them; this does the same sums as the masked
network (`halting.masked`) on fewer rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gentool.families.a_vit.halting import OUT, Account, Gate, scored
from gentool.networks.attention import SelfAttention
from gentool.networks.vit import Block, ViT

GROUPS = 4
"""Pictures of unlike length are attended in this many groups of about equal length, each padded to its longest."""
LEAST = 16
"""Pictures a group, below which grouping costs more than padding."""

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


@dataclass(frozen=True)
class Group:
    """Rows start .. stop of packed tokens: the pictures of one padded attention.

    Attributes:
        shape: pictures, and the longest one's tokens.
        slots: (stop - start,) places of the rows in the padded pictures, flattened; None where they fill them.
        bias: takes the empty places out.
    """

    start: int
    stop: int
    shape: tuple[int, int]
    slots: Tensor | None = None
    bias: Tensor | None = None


def grouped(lengths: Sequence[int], device: torch.device) -> list[Group]:
    """Neighbouring pictures of these numbers of tokens, sorted by them."""
    count = len(lengths)
    parts = 1 if lengths[0] == lengths[-1] else max(1, min(GROUPS, count // LEAST))
    size, groups, start = -(-count // parts), [], 0
    for first in range(0, count, size):
        own = lengths[first : first + size]
        shape, stop = (len(own), max(own)), start + sum(own)
        if min(own) == max(own):
            groups.append(Group(start, stop, shape))
        else:
            held = torch.arange(shape[1], device=device) < torch.tensor(own, device=device)[:, None]
            slots = held.flatten().nonzero().squeeze(1)
            groups.append(Group(start, stop, shape, slots, torch.where(held, 0.0, OUT)[:, None, None]))
        start = stop
    return groups


def without(groups: Sequence[Group], live: Tensor) -> list[Group]:
    """The same groups, whose rows that are not live (T,) are nobody's keys."""
    masked = []
    for group in groups:
        keys = torch.where(live[group.start : group.stop], 0.0, OUT)
        if group.slots is None:
            bias = keys.unflatten(0, group.shape)
        else:
            bias = keys.new_full(group.shape, OUT)
            bias.flatten().index_copy_(0, group.slots, keys)
        masked.append(replace(group, bias=bias[:, None, None]))
    return masked


def attended(attention: SelfAttention, z: Tensor, groups: Sequence[Group]) -> Tensor:
    """Self-attention within each picture of packed tokens (T, d)."""
    qkv, parts = attention.qkv(z), []
    for group in groups:
        own = qkv[group.start : group.stop]
        if group.slots is None:
            parts.append(attention.mix(own.unflatten(0, group.shape), group.bias).flatten(0, 1))
        else:
            padded = own.new_zeros(group.shape[0] * group.shape[1], own.shape[1])
            padded.index_copy_(0, group.slots, own)
            mixed = attention.mix(padded.unflatten(0, group.shape), group.bias)
            parts.append(mixed.flatten(0, 1).index_select(0, group.slots))
    out: Tensor = attention.proj(parts[0] if len(parts) == 1 else torch.cat(parts))
    return out


def through(block: Block, z: Tensor, groups: Sequence[Group]) -> Tensor:
    """A block on packed tokens (T, d)."""
    z = z + attended(block.attn, block.norm1(z), groups)
    after: Tensor = z + block.mlp(block.norm2(z))
    return after


@torch.no_grad()
def dropping(network: ViT, gate: Gate | None, x: Tensor) -> Dropped:
    """The masked network's result to rounding, in eval mode; without a gate, the plain network's.

    After each block the tokens that halted leave, and with its class token the picture, as soon as they are enough to
    be worth it. The rest are packed one picture after the other, sorted by their number.
    """
    embedded = network.embed(x)
    count, tokens, width = embedded.shape
    device, last = x.device, len(network.blocks)
    z = embedded.flatten(0, 1)
    owner = torch.arange(count, device=device).repeat_interleave(tokens)
    place = torch.arange(tokens, device=device).repeat(count)
    heads = (place == 0).nonzero().squeeze(1)
    groups = grouped([tokens] * count, device)
    mean = z.new_zeros(count, width)
    depth = torch.full((count, tokens), last, device=device)
    left, live, kept = torch.full((count,), tokens, device=device), [], len(z)
    here = torch.ones_like(place, dtype=torch.bool)
    account = None if gate is None else Account(gate(z), gate.epsilon)
    for number, block in enumerate(network.blocks, 1):
        assert isinstance(block, Block)
        live.append(left)
        if not len(z):
            continue
        z = through(block, z, groups)
        if account is None or gate is None:
            continue
        registers = (place > 0) & (place < network.specials)
        weight = account.add(scored(gate, z, registers, number == last))
        pictures = owner[heads]
        mean[pictures] += weight[heads, None].to(z.dtype) * z[heads]
        if number == last:
            continue
        open_to = torch.zeros(count, dtype=torch.bool, device=device)
        open_to[pictures] = account.live[heads]
        stays = account.live & open_to[owner]
        gone = here & ~stays
        rows = stays.nonzero().squeeze(1)
        if len(rows) == kept:
            continue
        depth[owner[gone], place[gone]] = number
        kept, left = len(rows), torch.bincount(owner[rows], minlength=count)
        if 0 < len(z) - kept < SLACK * len(z):
            account.live = here = stays
            groups = without(groups, stays)
            continue
        rows = rows[(left[owner[rows]] * count + owner[rows]).argsort(stable=True)]
        z, owner, place = z[rows], owner[rows], place[rows]
        account.keep(rows)
        heads, here = (place == 0).nonzero().squeeze(1), account.live
        if len(heads):
            groups = grouped(left[owner[heads]].tolist(), device)
    if account is None:
        mean = z[heads]
    return Dropped(mean, depth, torch.stack(live))
