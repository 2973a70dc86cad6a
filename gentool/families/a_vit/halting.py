"""When tokens halt (arXiv 2112.07658, section 3): scores, remainders, the two losses, and the masked network.

A token's first coordinate after each block is its halting logit. It halts in the first block after which its scores
sum to 1 - epsilon, and is from then on no key of anybody's attention. The output is the class token's mean state, each
block weighted by its score there, the last by what is left to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.families.a_vit.config import Halting
from gentool.networks.vit import ViT

OUT = -1000.0
"""Added to the logits of halted keys: nothing after the softmax, and finite where a picture has no key left."""
MARGIN = 3.0
"""Logits by which almost all tokens start below a score of one half."""
FLOOR = 1e-6
"""Least share of a block in the distribution of scores: a block that no token reaches has none."""


class Gate(nn.Module):
    """Scores of tokens, and their target; what it needs lies in the weights file.

    Attributes:
        scale, center: a token's score is sigmoid(scale first coordinate - center).
        epsilon: a token halts at a sum of 1 - epsilon.
        target: (depth,) distribution of scores over the blocks.
    """

    scale: Tensor
    center: Tensor
    epsilon: Tensor
    target: Tensor

    def __init__(self, config: Halting, depth: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(config.gate_scale))
        self.register_buffer(
            "center", torch.tensor(MARGIN if config.gate_center is None else config.gate_center)
        )
        self.register_buffer("epsilon", torch.tensor(config.epsilon))
        mean = 0.75 * depth if config.target_depth is None else config.target_depth
        self.register_buffer("target", gaussian_target(depth, mean))

    def forward(self, z: Tensor) -> Tensor:
        """Scores (...) of tokens (..., d), in at least float32: their sums decide."""
        first = z[..., 0]
        logit = self.scale * first.to(torch.promote_types(first.dtype, torch.float32)) - self.center
        return logit.sigmoid()

    def place(self, first: Tensor) -> None:
        """Sets `center` so that 95 % of these first coordinates score under sigmoid(-3) = 0.047: nothing halts."""
        at = max(1, math.ceil(0.95 * first.numel()))
        self.center.fill_(float((self.scale * first.flatten().float()).kthvalue(at).values) + MARGIN)


def gaussian_target(depth: int, mean: float) -> Tensor:
    """(depth,) normal density of variance 1 at the blocks 1 .. depth, as a distribution (section 3.3)."""
    logits = -((torch.arange(1, depth + 1, dtype=torch.float64) - mean) ** 2) / 2
    return logits.softmax(0).float()


def distribution_loss(scores: Tensor, target: Tensor) -> Tensor:
    """KL(target || scores) in nats of mean scores (depth,), brought to a sum of 1.

    The paper writes the divergence the other way round, its code computes this one: the other is unstable where a
    block has no score.
    """
    shares = scores / scores.sum().clamp(min=FLOOR)
    return F.kl_div(shares.clamp(min=FLOOR).log(), target.to(shares), reduction="sum")


class Account:
    """Where each token stands after some blocks; tensors of one shape (...).

    Attributes:
        live: whether it goes on.
        total: its scores so far. rest: 1 minus its scores before it halted.
        ponder: the blocks it went through, and once it has halted its remainder too (rho, section 3.2).
    """

    def __init__(self, like: Tensor, epsilon: Tensor) -> None:
        self.epsilon = epsilon
        self.live = torch.ones_like(like, dtype=torch.bool)
        self.total = torch.zeros_like(like)
        self.rest = torch.ones_like(like)
        self.ponder = torch.zeros_like(like)

    def add(self, score: Tensor) -> Tensor:
        """Takes in the scores after one more block; returns the block's weights (...) in the tokens' means.

        Over all blocks they sum to 1, if the last score is 1.
        """
        self.total = self.total + score
        stop = self.live & (self.total >= 1 - self.epsilon)
        goes_on = self.live & ~stop
        weight = torch.where(stop, self.rest, torch.where(goes_on, score, 0.0))
        self.ponder = self.ponder + self.live + torch.where(stop, self.rest, 0.0)
        self.rest = self.rest - torch.where(goes_on, score, 0.0)
        self.live = goes_on
        return weight

    def keep(self, rows: Tensor) -> None:
        """Goes on with these tokens alone, in this order."""
        for name in ("live", "total", "rest", "ponder"):
            setattr(self, name, getattr(self, name)[rows])


@dataclass(frozen=True)
class Trace:
    """What the masked network did.

    Attributes:
        mean: (B, d) mean state of the class token, before the last norm.
        depth: (B, N) blocks each token went through, 1 to `depth`.
        ponder: (B, N) rho. scores: (depth,) mean scores of the patches that reached each block.
    """

    mean: Tensor
    depth: Tensor
    ponder: Tensor
    scores: Tensor


def scored(gate: Gate, z: Tensor, registers: Tensor, last: bool) -> Tensor:
    """Scores as they are summed: in the last block 1, of registers 0 before it."""
    if last:
        return torch.ones_like(gate(z))
    return torch.where(registers, 0.0, gate(z))


def masked(network: ViT, gate: Gate, x: Tensor) -> Trace:
    """Every token through every block, halted ones without effect: differentiable, and of one shape throughout."""
    z = network.embed(x)
    place = torch.arange(z.shape[1], device=z.device)
    registers = (place > 0) & (place < network.specials)
    account = Account(gate(z.detach()), gate.epsilon)
    mean = torch.zeros_like(z[:, 0])
    depth = torch.zeros_like(account.live, dtype=torch.int64)
    scores = []
    for number, block in enumerate(network.blocks, 1):
        live = account.live
        depth = depth + live
        z = block(z, torch.where(live, 0.0, OUT)[:, None, None])
        z = torch.where(live[..., None], z, 0.0)
        patches, raw = live[:, network.specials :], gate(z[:, network.specials :])
        scores.append((raw * patches).sum() / patches.sum().clamp(min=1))
        weight = account.add(scored(gate, z, registers, number == len(network.blocks)))
        mean = mean + weight[:, :1].to(z.dtype) * z[:, 0]
    return Trace(mean, depth, account.ponder, torch.stack(scores))
