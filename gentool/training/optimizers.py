"""torch's optimisers for a recipe, and the learning rate that they follow."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from gentool.recipes.schema import Optimizer


class LrSchedule:
    """The learning rate as a pure function of the step: nothing to save, nothing to restore."""

    def __init__(self, config: Optimizer, max_steps: int) -> None:
        self.config, self.max_steps = config, max_steps

    def __call__(self, step: int) -> float:
        c = self.config
        if step < c.warmup:
            return c.lr * (step + 1) / c.warmup
        done = min(1.0, (step - c.warmup) / max(1, self.max_steps - c.warmup))
        if c.schedule == "cosine":
            return c.lr * (c.final + (1 - c.final) * (1 + math.cos(math.pi * done)) / 2)
        if c.schedule == "linear":
            return c.lr * (1 - (1 - c.final) * done)
        return c.lr


def build_optimizer(
    config: Optimizer, parameters: Iterable[nn.Parameter], *, fused: bool = True
) -> torch.optim.Optimizer:
    """torch's optimiser for a recipe block, over the parameters that ask for a gradient.

    Args:
        fused: Adam in one pass over memory: several times faster than torch's default on a CPU, and no slower on a GPU.
    """
    trainable = [p for p in parameters if p.requires_grad]
    if config.name == "sgd":
        return torch.optim.SGD(trainable, config.lr, config.momentum, weight_decay=config.weight_decay)
    cls = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return cls(trainable, config.lr, config.betas, config.eps, config.weight_decay, fused=fused)
