"""The judges' own classifier: one network and one recipe for every data set, so that figures can be compared.

It serves as feature extractor (`classifier`, trained on the reference) and as the learner of `cas` (trained
on samples). As extractor, a classifier that the user trained may stand in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gentool.data import to_model
from gentool.errors import UserError
from gentool.metrics.cache import digest_of
from gentool.metrics.features import Workshop, image_shape
from gentool.metrics.images import Images, gather
from gentool.networks import build_classifier
from gentool.networks.classifier import Classifier
from gentool.networks.config import ResNet

VERSION = 2
"""Counts changes of the recipe below; part of every cache key."""
CHANNELS, MULT = 16, (1, 2, 4, 8)
BATCH, EPOCHS, MIN_STEPS, MAX_STEPS = 64, 20, 300, 2000
LR, WEIGHT_DECAY = 2e-3, 1e-2
BLOCK = 256
HELD_OUT = 10
"""Every tenth reference image is kept from training, to say how good the judge is."""


def build(shape: tuple[int, int, int], classes: int) -> Classifier:
    """The untrained network: 16 to 128 channels over four levels, fewer for images under 8 x 8."""
    levels = min(len(MULT), min(shape[1:]).bit_length())
    return build_classifier(ResNet(channels=CHANNELS, mult=MULT[:levels]), shape, classes)


def _shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """The batch moved by up to a twelfth of its size: the one augmentation that keeps every label."""
    reach = max(1, round(x.shape[-1] / 12))
    up, left = torch.randint(0, 2 * reach + 1, (2,), generator=generator).tolist()
    padded = F.pad(x, (reach,) * 4, mode="replicate")
    return padded[..., up : up + x.shape[-2], left : left + x.shape[-1]]


def train(pixels: Tensor, labels: Tensor, classes: int, device: torch.device) -> Classifier:
    """The network trained on uint8 pixels (N, C, H, W) and labels (N,), in eval mode.

    AdamW on one cosine cycle, 20 epochs but from 300 to 2000 steps of 64, random shifts; the same data give
    the same weights on the same kind of machine.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        # weights are drawn on the CPU, and `torch.manual_seed` would seed GPUs too
        torch.default_generator.manual_seed(0)
        channels, height, width = pixels.shape[1:]
        model = build((channels, height, width), classes).to(device)
    size = min(BATCH, len(pixels))
    steps = min(max(EPOCHS * len(pixels) // size, MIN_STEPS), MAX_STEPS)
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps, pct_start=0.2)
    order = torch.empty(0, dtype=torch.int64)
    model.train()
    for _ in range(steps):
        if len(order) < size:
            order = torch.randperm(len(pixels), generator=generator)
        rows, order = order[:size], order[size:]
        x = _shifted(to_model(pixels[rows]).to(device), generator)
        loss = F.cross_entropy(model(x), labels[rows].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


class Judge:
    """A classifier of uint8 images: calling it gives logits (B, classes) of x uint8 (B, C, H, W).

    Args:
        features: penultimate features (B, d) of images in [-1, 1].
        output: the linear layer from features to logits.
        device: where both are.
    """

    def __init__(self, features: Callable[[Tensor], Tensor], output: nn.Linear, device: torch.device) -> None:
        self.features = features
        self.output = output
        self.device = device

    def __call__(self, x: Tensor) -> Tensor:
        return self.look(x)[1]

    def logits(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images in [-1, 1], not rounded to bytes; differentiable."""
        return self.output(self.features(x))

    @torch.inference_mode()
    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, d) and logits (B, classes)."""
        features = self.features(to_model(x.to(self.device)))
        return features, self.output(features)


def train_judge(images: Images, classes: int, device: torch.device) -> Judge:
    """A judge trained on all of a labelled set.

    Raises:
        UserError: the set has no labels.
    """
    pixels, labels = gather(images)
    return judge_of(train(pixels, labels, classes, device), device)


def judge_of(model: Classifier, device: torch.device) -> Judge:
    return Judge(model.features, model.output, device)


def accuracy(classify: Callable[[Tensor], Tensor], images: Iterable[tuple[Tensor, Tensor | None]]) -> float:
    """Share of a labelled set that `classify`, from uint8 (B, C, H, W) to logits, reads right."""
    right = total = 0
    for x, label in images:
        assert label is not None
        right += int((classify(x).argmax(1).cpu() == label.cpu()).sum())
        total += len(label)
    return right / total


@dataclass(frozen=True)
class OwnClassifier:
    """A classifier that the user trained, in the place of the one trained on the reference.

    Attributes:
        judge: the classifier.
        shape: (C, H, W) of the images it reads.
        classes: how many it tells apart.
        run: the run folder's name.
        digest: SHA-256 of its weights file.
    """

    judge: Judge
    shape: tuple[int, ...]
    classes: int
    run: str
    digest: str


class ClassifierExtractor:
    """Penultimate features and logits of a classifier of the reference's classes."""

    preprocessing = "x / 127.5 - 1"

    def __init__(self, judge: Judge, name: str, identity: str, note: str) -> None:
        self._judge = judge
        self.name = name
        self.dim = judge.output.in_features
        self.device = judge.device
        self.identity = identity
        self.note = note

    def __call__(self, x: Tensor, classify: bool) -> tuple[Tensor, Tensor | None]:
        features, logits = self._judge.look(x)
        return features, logits if classify else None


def classifier(reference: Images, workshop: Workshop) -> ClassifierExtractor:
    """The user's classifier, where there is one; else that of this reference set.

    Raises:
        UserError: as `reference_classifier`, or the user's reads other images or tells other classes apart.
    """
    own = workshop.classifier
    if own is None:
        return reference_classifier(reference, workshop)
    if (own.shape, own.classes) != (image_shape(reference, "classifier"), reference.classes):
        raise UserError(
            f"--classifier: it reads {own.shape} images of {own.classes} classes, but {reference.name} has "
            f"{reference.shape} of {reference.classes or 'no'} classes",
            own.run,
        )
    note = f"run {own.run}, weights SHA-256 {own.digest}"
    unseen = workshop.held_out
    if unseen is not None and unseen.classes is not None:
        note += f", accuracy {accuracy(own.judge, unseen):.4f} on {unseen.name}"
    return ClassifierExtractor(
        own.judge, f"classifier:{own.digest[:12]}", f"own-classifier-1 {own.digest}", note
    )


def reference_classifier(reference: Images, workshop: Workshop) -> ClassifierExtractor:
    """The classifier of this reference set: from the cache, or trained now and cached.

    Raises:
        UserError: the reference has no labels, or too few images to train on.
    """
    if reference.classes is None:
        raise UserError(
            "has no labels to train the extractor 'classifier' on; use pixels or inception", reference.name
        )
    shape = image_shape(reference, "classifier")
    if len(reference) < 2 * HELD_OUT:
        raise UserError(
            f"has {len(reference)} images, too few to train a classifier on; use pixels", reference.name
        )
    device = workshop.device
    key = {"kind": "classifier", "data": reference.fingerprint, "count": len(reference), "version": VERSION}
    if (hit := workshop.cache.load(key)) is not None:
        model = build(shape, reference.classes)
        model.load_state_dict(hit[0])
        model.to(device).eval()
        found = hit[1]["accuracy"]
    else:
        pixels, labels = gather(reference)
        kept = torch.arange(len(pixels)) % HELD_OUT == 0
        model = train(pixels[~kept], labels[~kept], reference.classes, device)
        tested = zip(pixels[kept].split(BLOCK), labels[kept].split(BLOCK), strict=True)
        found = accuracy(judge_of(model, device), tested)
        workshop.cache.save(key, model.state_dict(), {"accuracy": found})
    return ClassifierExtractor(
        judge_of(model, device),
        "classifier",
        f"classifier-{VERSION} {digest_of(model.state_dict())}",
        f"accuracy {found:.4f} on a tenth of the reference that it was not trained on",
    )
