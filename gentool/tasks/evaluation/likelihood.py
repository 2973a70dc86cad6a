"""Bits per dimension of held-out data under a trained model, by the probability-flow ODE."""

from __future__ import annotations

from typing import Any

import torch

from gentool.data import open_set
from gentool.diffusion import likelihood
from gentool.errors import UserError
from gentool.noise import Noise
from gentool.tasks.model.load import best_device
from gentool.training.module import GenModule
from gentool.training.watching import Report, unreported

COUNT = 128
"""Held-out examples; the ODE costs about a hundred network calls and as many derivatives for each."""

BATCH = 64


def bits_per_dim(
    module: GenModule,
    *,
    seed: int = 0,
    count: int = COUNT,
    report: Report = unreported,
) -> tuple[float, dict[str, Any]]:
    """Mean bits per dimension of the test split's first `count` images, and its standard error.

    Conditional models are given the images' own labels. Source: score SDE (2011.13456), appendix D.2.

    Raises:
        UserError: the model has no likelihood, or the data are not images of 8 bits.
    """
    if module.spec.kind != "image":
        raise UserError("bits-per-dim is for images of 8 bits; the model makes " + module.spec.kind + " data")
    dataset = open_set(module.recipe.data, "test")
    device = best_device()
    module = module.to(device)
    count = min(count, len(dataset))
    bits, calls, bound = [], 0.0, False
    for start in range(0, count, BATCH):
        indices = list(range(start, min(start + BATCH, count)))
        batch = dataset.take(indices)
        noise = Noise(seed, indices, batch.x.shape[1:], device)
        found = module.log_likelihood(
            likelihood.dequantise(batch.x.to(device), noise),
            noise,
            batch.label.to(device) if module.classes else None,
        )
        bound = found.bound
        bits.append(likelihood.bits_per_dim(found.log_prob, batch.x[0].numel()))
        calls += float(found.nfe.sum())
        report(indices[-1] + 1, count, {})
    each = torch.cat(bits)
    error = float(each.std() / count**0.5) if count > 1 else float("nan")
    return float(each.mean()), {
        "count": count,
        "standard_error": error,
        "nfe": calls / count,
        "split": "test",
        "kind": "upper bound" if bound else "value",
    }
