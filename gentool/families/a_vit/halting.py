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


@dataclass(frozen=True)
class Account:
    """What the running sums of tokens' scores come to; tensors of their shape (...).

    Attributes:
        weights: (blocks, ...) of each block in a token's mean: its score, where it halts the remainder, then 0. They
            sum to 1.
        depth: blocks gone through, N. ponder: N and the remainder (rho, section 3.2).
    """

    weights: Tensor
    depth: Tensor
    ponder: Tensor


def halted(total: Tensor, gate: Gate) -> Tensor:
    """Whether tokens whose scores sum to `total` have halted."""
    return total >= 1 - gate.epsilon


def accounted(totals: Tensor, gate: Gate) -> Account:
    """The account of sums (blocks, ...) of scores up to each block, of which the last is at least 1."""
    done = halted(totals, gate)
    sums = torch.where(done, 1.0, totals)
    weights = sums.diff(dim=0, prepend=torch.zeros_like(sums[:1]))
    depth = 1 + (~done[:-1]).sum(0)
    halts = done.diff(dim=0, prepend=torch.zeros_like(done[:1]))
    return Account(weights, depth, depth + torch.where(halts, weights, 0.0).sum(0))


@dataclass(frozen=True)
class Trace:
    """What the masked network did.

    Attributes:
        mean: (B, readers, d) mean state of the class token, before the last norm; and by the same weights that of the
            distillation token, which does not halt by itself: a picture is finished with its class token.
        depth: (B, N) blocks each token went through, 1 to `depth`.
        ponder: (B, N) rho. scores: (depth,) mean scores of the patches that reached each block.
    """

    mean: Tensor
    depth: Tensor
    ponder: Tensor
    scores: Tensor


def masked(network: ViT, gate: Gate, x: Tensor) -> Trace:
    """Every token through every block, halted ones without effect: differentiable, and of one shape throughout."""
    z = network.embed(x)
    place = torch.arange(z.shape[1], device=z.device)
    registers = (place > 0) & (place < network.specials)
    total = torch.zeros_like(gate(z.detach()))
    live = torch.ones_like(total, dtype=torch.bool)
    totals, scores, states = [], [], []
    for number, block in enumerate(network.blocks, 1):
        z = block(z, torch.where(live, 0.0, OUT)[:, None, None])
        z = torch.where(live[..., None], z, 0.0)
        score, patches = gate(z), live[:, network.specials :]
        scores.append((score[:, network.specials :] * patches).sum() / patches.sum().clamp(min=1))
        total = total + (1.0 if number == len(network.blocks) else torch.where(registers, 0.0, score))
        totals.append(total)
        states.append(z[:, : network.readers])
        live = ~halted(total, gate)
    account = accounted(torch.stack(totals), gate)
    mean = (account.weights[:, :, :1, None].to(z.dtype) * torch.stack(states)).sum(0)
    return Trace(mean, account.depth, account.ponder, torch.stack(scores))
