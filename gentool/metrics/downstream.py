"""Downstream accuracy: classifiers trained on the samples alone, tested on real images.

The protocol of the papers on private generation (networks of DP-Sinkhorn, 2111.01177; training of DPDM, 2210.09929):
Adam 3e-4, batches of 128, 50 epochs, and of these the epoch that is best on held-out SYNTHETIC images, so that nothing
real is looked at before the figure is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gentool.data import to_model
from gentool.errors import UserError
from gentool.metrics.classifier import accuracy
from gentool.metrics.evidence import Evidence, Judgement
from gentool.metrics.images import Images, gather
from gentool.metrics.options import DownstreamOptions
from gentool.networks import build_classifier
from gentool.networks.config import ClassifierConfig, Cnn, LogReg, Mlp

BATCH, LR = 128, 3e-4
VALIDATION = 10
"""One sample in ten chooses the epoch; the others train."""
BLOCK = 1024
"""Images classified at once."""
NETWORKS: dict[str, ClassifierConfig] = {"logreg": LogReg(), "mlp": Mlp(), "cnn": Cnn()}


@dataclass(frozen=True)
class Part:
    """Labelled images in memory: pixels uint8 (N, C, H, W) and labels (N,), on one device."""

    pixels: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Learnt:
    """A classifier in eval mode, the epoch (1 the first) that it is of, and its accuracy on the validation part."""

    model: nn.Module
    epoch: int
    validation: float


def downstream(evidence: Evidence, options: DownstreamOptions) -> Judgement:
    """`downstream-logreg`, `downstream-mlp`, `downstream-cnn` in [0, 1], each the mean of `options.repeats` runs.

    Raises:
        UserError: too few samples to keep some for validation.
    """
    assert evidence.held_out is not None
    samples, unseen = evidence.samples.images, evidence.held_out.images
    if len(samples) < VALIDATION:
        raise UserError(f"has {len(samples)} images; downstream needs at least {VALIDATION}", samples.name)
    classes = evidence.reference.images.classes or 0
    train, validation = split(samples, evidence.device, evidence.seed)
    values, details = {}, {}
    for name in options.networks:
        runs = []
        for repeat in range(options.repeats):
            seed = evidence.seed + repeat
            learnt = learn(NETWORKS[name], train, validation, classes, options.epochs, seed)
            tested = accuracy(partial(read, learnt.model), unseen)
            runs.append({"accuracy": tested, "epoch": learnt.epoch, "validation": learnt.validation})
        values[f"downstream-{name}"] = sum(run["accuracy"] for run in runs) / len(runs)
        details[name] = runs
    seen = torch.bincount(train.labels, minlength=classes)
    missing = [str(i) for i in (seen == 0).nonzero().flatten().tolist()]
    how = {
        "epochs": options.epochs,
        "trained_on": len(train.labels),
        "validated_on": len(validation.labels),
        "tested_on": len(unseen),
    }
    warning = f"downstream: no training sample shows class {', '.join(missing)}"
    return Judgement(values, how | details, (warning,) if missing else ())


def learn(
    network: ClassifierConfig, train: Part, validation: Part, classes: int, epochs: int, seed: int
) -> Learnt:
    """The classifier after the epoch that did best on `validation`, the first of equals.

    The data are shuffled anew in each epoch; weights, order and dropout are fixed by `seed`.
    """
    device = train.pixels.device
    generator = torch.Generator().manual_seed(seed)
    best, epoch_of_best = -1.0, 0
    weights: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = build_classifier(network, train.pixels.shape[1:], classes)
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # a third faster on a CPU
        optimizer = torch.optim.Adam(model.parameters(), LR, foreach=True)
        for epoch in range(1, epochs + 1):
            model.train()
            for rows in torch.randperm(len(train.labels), generator=generator).to(device).split(BATCH):
                loss = F.cross_entropy(model(to_model(train.pixels[rows])), train.labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            model.eval()
            blocks = zip(validation.pixels.split(BLOCK), validation.labels.split(BLOCK), strict=True)
            found = accuracy(partial(read, model), blocks)
            if found > best:
                best, epoch_of_best = found, epoch
                weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    return Learnt(model, epoch_of_best, best)


@torch.inference_mode()
def read(model: nn.Module, x: Tensor) -> Tensor:
    """Logits of uint8 images, on the model's device."""
    device = next(model.parameters()).device
    return model(to_model(x.to(device)))


def split(samples: Images, device: torch.device, seed: int) -> tuple[Part, Part]:
    """The training and the validation part, drawn at random: samples often take the classes in turn."""
    pixels, labels = gather(samples)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    kept = len(labels) // VALIDATION
    chosen, rest = order[:kept], order[kept:]
    return (
        Part(pixels[rest].to(device), labels[rest].to(device)),
        Part(pixels[chosen].to(device), labels[chosen].to(device)),
    )
