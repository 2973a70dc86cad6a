"""Image classifiers by cross-entropy, of clean pictures or of noisy states (Dhariwal and Nichol 2021, section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gentool import networks
from gentool.data import Batch, DataSet, DataSpec, to_model
from gentool.diffusion import precond as preconds
from gentool.diffusion import processes, times
from gentool.diffusion.config import EdmPrecond
from gentool.diffusion.convert import per_sample
from gentool.errors import UserError
from gentool.families.classifier.config import ClassifierRecipe
from gentool.metrics.classifier import Judge
from gentool.networks.classifier import Classifier
from gentool.networks.config import ResNet
from gentool.noise import Noise
from gentool.training.augment import shifted
from gentool.training.classifying import ClassifyingModule
from gentool.training.fitting import model_batches
from gentool.training.module import Examples
from gentool.training.sampling import Guide

LEVELS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Noise levels sigma at which a noise-conditioned classifier is judged besides clean pictures."""
BATCH = 256


class ImageClassifier(nn.Module):
    """Logits of pictures, or of canonical states x = x0 + sigma eps and their noise level.

    The network is fed x / sqrt(sigma^2 + sigma_data^2) and c_noise = ln(sigma) / 4, EDM's input scaling
    (arXiv 2206.00364, table 1): unit variance at every level, so that one network serves a range of five decades.
    At large sigma its input is pure noise and cross-entropy's minimum is the classes' prior, whose gradient is
    zero; at small sigma it is the clean picture up to a constant. So log p(y | x, sigma) is defined, and smooth in
    both, for every sigma > 0, and belongs to no process: only the range trained on does.

    Args:
        network: takes `c_noise` exactly when `precond` is given.
        precond: the input scaling; None for a classifier of clean pictures.
    """

    def __init__(self, network: Classifier, precond: preconds.Precond | None) -> None:
        super().__init__()
        self.network = network
        self.precond = precond

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) in units of [-1, 1] pixels, sigma (B,) exactly when it is a classifier of noisy states ->
        logits (B, classes)."""
        return self.network(*self.scaled(x, sigma))

    def features(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The network's penultimate features (B, d), of the same arguments."""
        return self.network.features(*self.scaled(x, sigma))

    def scaled(self, x: Tensor, sigma: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the network is fed."""
        if self.precond is None or sigma is None:
            return x, sigma
        scalings = self.precond(sigma)
        return per_sample(scalings.c_in, x) * x, scalings.c_noise

    def log_prob(self, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        """log p(label | x, sigma), (B,)."""
        return self(x, sigma).log_softmax(1).gather(1, label[:, None]).squeeze(1)


class ClassifierModule(ClassifyingModule):
    """Cross-entropy on labelled pictures; with `model.noise`, at noise levels of the whole range of a process."""

    no_samples = (
        "a classifier draws no samples: use it with --guidance classifier=2 --classifier RUN when sampling a "
        "diffusion run"
    )
    recipe: ClassifierRecipe
    model: ImageClassifier

    def __init__(self, recipe: ClassifierRecipe, spec: DataSpec) -> None:
        super().__init__(recipe, spec)
        config = recipe.model
        precond = None
        if config.noise is not None:
            self.process = processes.build(config.noise.process)
            self.times = times.build(config.noise.times, self.process)
            self.stratified = config.noise.times.stratified
            precond = preconds.build(EdmPrecond(), self.process)
        network = config.network
        if isinstance(network, ResNet):
            network = network.model_copy(update={"noise_conditioned": precond is not None})
        self.model = ImageClassifier(networks.build_classifier(network, spec.shape, spec.classes), precond)

    def fit_to_data(self, dataset: DataSet) -> None:
        if self.model.precond is not None:
            self.model.precond.set_sigma_data(preconds.measure_sigma_data(model_batches(dataset)))

    def fit_privately(self) -> None:
        """sigma_data of uniform pixels, the square root of 1/3, which only scales the network's input."""
        if self.model.precond is None:
            return
        if self.stratified:
            raise UserError(
                "private training needs each record's draw to be independent of the others: leave it false",
                "model.noise.times.stratified",
            )
        self.model.precond.set_sigma_data(math.sqrt(1 / 3))

    def assume_data(self) -> None:
        if self.model.precond is not None:
            self.model.precond.set_sigma_data(0.5)

    def examples(self, batch: Batch) -> Examples:
        """Pictures after augmentation, noisy ones with their noise level, and labels."""
        x = self.moved(to_model(batch.x))
        if self.model.precond is None:
            return {"x": x, "label": batch.label}
        sigma = self.times(self._uniform(len(x), 1, self.stratified).squeeze(1)).to(x)
        noise = self.global_draw(
            len(x), lambda n: torch.randn(n, *x.shape[1:], generator=self.rng, device=self.device)
        )
        return {"x": x + per_sample(sigma, x) * noise, "sigma": sigma, "label": batch.label}

    def losses(self, examples: Examples) -> Tensor:
        """(B,) cross-entropies in nats."""
        logits = self.model(examples["x"], examples.get("sigma"))
        return F.cross_entropy(logits, examples["label"], reduction="none")

    def moved(self, x: Tensor) -> Tensor:
        """The pictures after the recipe's mirroring and shifts."""
        config = self.recipe.model
        if config.flip:
            x = torch.where(per_sample(self._uniform(len(x), 1) < 0.5, x), x.flip(3), x)
        if config.shift:
            by = self._uniform(len(x), 2) * (2 * config.shift + 1)
            x = shifted(x, by.long() - config.shift)
        return x

    def _uniform(self, count: int, draws: int, stratified: bool = False) -> Tensor:
        """(count, draws) in [0, 1): this rank's rows of the global batch's."""
        return self.global_draw(count, lambda n: times.uniforms(n, draws, self.rng, stratified=stratified))

    @torch.no_grad()
    def evaluate_model(
        self, held_out: DataSet, *, seed: int = 0, report: Callable[[int, int], None] | None = None
    ) -> dict[str, float]:
        """Share of labels read right and mean cross-entropy in nats: `accuracy`, `cross-entropy`.

        A classifier of noisy states is told its lowest noise level for clean pictures, and judged with the same
        noise at each level of `LEVELS` in its range (`accuracy@0.5`: at sigma = 0.5).
        """
        levels = [0.0]
        if self.model.precond is not None:
            levels += [s for s in LEVELS if self.process.train_sigma_min <= s <= self.process.sigma_max]
        totals = torch.zeros(len(levels), 2, dtype=torch.float64)
        for start in range(0, len(held_out), BATCH):
            indices = list(range(start, min(start + BATCH, len(held_out))))
            batch = held_out.take(indices)
            x0, label = to_model(batch.x.to(self.device)), batch.label.to(self.device)
            for row, level in zip(totals, levels, strict=True):
                logits = self._at_level(x0, level, Noise(seed, indices, x0.shape[1:], self.device))
                row[0] += (logits.argmax(1) == label).sum().cpu()
                row[1] += F.cross_entropy(logits, label, reduction="sum").cpu()
            if report is not None:
                report(indices[-1] + 1, len(held_out))
        figures: dict[str, float] = {}
        for level, (right, nats) in zip(levels, (totals / len(held_out)).tolist(), strict=True):
            at = f"@{level:g}" if level else ""
            figures |= {f"accuracy{at}": right, f"cross-entropy{at}": nats}
        return figures

    def _at_level(self, x0: Tensor, level: float, noise: Noise) -> Tensor:
        x = x0 + level * noise.normal("classifier") if level else x0
        return self.model(x, self._sigma(x, level))

    def _sigma(self, x: Tensor, level: float = 0.0) -> Tensor | None:
        """(B,) noise levels as the model is told them: its lowest for clean pictures; None if it takes none."""
        if self.model.precond is None:
            return None
        return x.new_full((len(x),), level or self.process.train_sigma_min)

    @property
    def in_parts(self) -> bool:
        """Not where parts of a batch are normalised otherwise than the whole."""
        return not any(isinstance(part, nn.BatchNorm2d) for part in self.modules())

    def judge(self) -> Judge:
        return Judge(lambda x: self.model.features(x, self._sigma(x)), self.model.network.output, self.device)

    def guide(self) -> Guide:
        if self.model.precond is None:
            return super().guide()
        return Guide(
            self.model.log_prob,
            self.spec.shape,
            self.spec.class_names,
            self.process.train_sigma_min,
            self.process.sigma_max,
        )

    def compiled_parts(self) -> list[nn.Module]:
        return [self.model.network]
