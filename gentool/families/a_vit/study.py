"""What `gentool evaluate` tells of a run: how well it reads, how long tokens live, and what that saves, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gentool.data import DataSet, to_model
from gentool.families.a_vit import pictures, timing
from gentool.families.a_vit.dropping import Dropped
from gentool.families.a_vit.model import AdaptiveViT
from gentool.networks.vit import multiply_adds
from gentool.training.findings import Findings

if TYPE_CHECKING:
    from gentool.families.a_vit.module import AVitModule

BATCH = 256
LOOKED_AT = 2048
"""Held-out pictures, from the first on, whose depths are told by class."""
MANY = 100
"""Classes from which on the true one among the five likeliest is a figure too."""


class Read(NamedTuple):
    """A batch as it was read: pictures as the network saw them, labels, logits and what the dropping network did."""

    x: Tensor
    label: Tensor
    logits: Tensor
    dropped: Dropped


@torch.no_grad()
def reads(module: AVitModule, held_out: DataSet, most: int | None = None) -> Iterator[Read]:
    """The first `most` pictures, in batches, through the dropping network."""
    count = len(held_out) if most is None else min(most, len(held_out))
    for start in range(0, count, BATCH):
        batch = held_out.take(list(range(start, min(start + BATCH, count))))
        x = module.pictures(to_model(batch.x.to(module.device)))
        dropped = module.model.dropped(x)
        yield Read(x, batch.label.to(module.device), module.model.logits(dropped.mean), dropped)


def operations(model: AdaptiveViT, live: Tensor) -> Tensor:
    """(B,) multiply-adds of pictures whose blocks were entered by so many tokens, live (depth, B), in float64.

    Those of the patches' embedding and of the head are counted, of norms, biases and softmax not.
    """
    network = model.network
    blocks = multiply_adds(network.config, live).sum(0)
    embedding = network.patch_embed.proj.weight.numel() * network.grid[0] * network.grid[1]
    return blocks + embedding + network.output.weight.numel()


def figures(
    module: AVitModule, held_out: DataSet, report: Callable[[int, int], None] | None
) -> dict[str, float]:
    """Accuracy, cross-entropy in nats, multiply-adds a picture, and of a model whose tokens halt what they do.

    `mean-depth` is the mean number of blocks that a token goes through, `class-depth` that of the class token, `tokens`
    the mean number of them in a block, and `operations-saved` the share of the dense network's multiply-adds.
    """
    sums: dict[str, float] = {}
    dense = operations(
        module.model, torch.full((module.recipe.model.network.depth, 1), module.model.network.tokens)
    )
    done, halts = 0, module.model.halts

    def add(name: str, values: Tensor) -> None:
        sums[name] = sums.get(name, 0.0) + float(values.double().sum())

    for read in reads(module, held_out):
        add("accuracy", read.logits.argmax(1) == read.label)
        if module.classes >= MANY:
            add("accuracy-top5", (read.logits.topk(5).indices == read.label[:, None]).any(1))
        add("cross-entropy", F.cross_entropy(read.logits, read.label, reduction="none"))
        add("multiply-adds", operations(module.model, read.dropped.live))
        if module.model.gate is not None:
            add("mean-depth", read.dropped.depth[:, halts].double().mean(1))
            add("class-depth", read.dropped.depth[:, 0])
            add("tokens", read.dropped.live.double().mean(0))
        done += len(read.label)
        if report is not None:
            report(done, len(held_out))
    found = {name: value / len(held_out) for name, value in sums.items()}
    if module.model.gate is not None:
        found["operations-saved"] = 1 - found["multiply-adds"] / float(dense)
    return found


def findings(module: AVitModule, held_out: DataSet) -> Findings:
    """Throughput, and of a model whose tokens halt the depths by class and as pictures."""
    seen = list(reads(module, held_out, LOOKED_AT))
    x, label = torch.cat([r.x for r in seen]), torch.cat([r.label for r in seen])
    depth = torch.cat([r.dropped.depth for r in seen])[:, module.model.halts]
    own = depth.double().mean(1)
    measured = timing.throughput(module.model, x, own.argsort())
    if module.model.gate is None:
        return Findings(measured.figures, measured.details)
    names = module.spec.class_names
    by_class = {names[k]: round(float(own[label == k].mean()), 3) for k in label.unique().tolist()}
    live = torch.cat([r.dropped.live for r in seen], 1).double().mean(1)
    details = {
        "depth by class": dict(sorted(by_class.items(), key=lambda item: item[1])),
        "tokens by block": [round(n, 2) for n in live.tolist()],
        **measured.details,
    }
    sheet = pictures.depth_maps(x, depth[:, 1:], module.model.network.grid, module.recipe.model.network.depth)
    return Findings(measured.figures, details, (sheet,), measured.warnings)
