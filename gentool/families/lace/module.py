"""Classifiers of attributes on the latents of a frozen generator (Nie et al. 2021, arXiv 2110.10873)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gentool.data import Batch, DataSet, DataSpec
from gentool.errors import UserError
from gentool.families.lace import labels as labelling
from gentool.families.lace.config import AttributeConfig, FromClassifier, FromMeasure, FromTable, LaceRecipe
from gentool.families.lace.energy import truth
from gentool.families.lace.formula import Attribute, parse
from gentool.families.lace.network import LatentClassifier, masked_losses
from gentool.metrics.strokes import measure
from gentool.noise import Noise
from gentool.training.fitting import model_batches
from gentool.training.latent import LatentGenerator
from gentool.training.module import Examples, GenModule

BLOCK = 500
TRIAL, TESTED = 64, 2000
"""Latents of a dry run, and those by which the classifiers are judged: not among the ones they learnt."""


class LaceModule(GenModule):
    """Cross-entropy of discrete attributes and squared errors of numbers; labels that are missing are masked.

    The latents and their labels are a function of the recipe, the generator and the labellers alone: they are made when
    the first batch asks for them, and again by a resumed run.
    """

    draws_samples = False
    no_samples = "lace draws no samples of its own: use gentool edit RUN --method lace --formula ..."
    recipe: LaceRecipe
    model: LatentClassifier

    def __init__(self, recipe: LaceRecipe, spec: DataSpec, base: GenModule) -> None:
        super().__init__(recipe, spec)
        if spec.kind != "image" or base.spec.shape != spec.shape:
            raise UserError(
                f"the generator makes {base.spec.kind} data of {base.spec.shape}, {recipe.data.name} is {spec.kind} "
                f"data of {spec.shape}",
                "base",
            )
        self.adopt(base)
        config = recipe.model
        self.generator: LatentGenerator = base.latent_generator(config.truncation)
        self.classes_of = {name: class_names(a, spec) for name, a in config.attributes.items()}
        outputs = {name: max(1, len(names)) for name, names in self.classes_of.items()}
        inputs = self.generator.width if config.space == "w" else self.generator.latent + base.classes
        self.model = LatentClassifier(inputs, config.depth, config.width, outputs)
        self.exclude = None if config.exclude is None else parse(config.exclude, self.attributes())
        self._latents = config.latents
        self._labelled: tuple[Tensor, dict[str, Tensor]] | None = None
        self._labellers: dict[str, labelling.Labeller] = {}

    def attributes(self) -> dict[str, Attribute]:
        """What formulas may say."""
        ranges = dict(zip(self.model.names, self.model.ranges.tolist())) if hasattr(self, "model") else {}
        return {
            name: Attribute(names, *ranges.get(name, (0.0, 1.0))) for name, names in self.classes_of.items()
        }

    # Labels

    def fit_to_data(self, dataset: DataSet) -> None:
        """What 0 and 1 are of each number: percentiles over the training data, or the table's own range."""
        for name, config in self.recipe.model.attributes.items():
            if isinstance(config, FromMeasure):
                known = torch.cat([measure(config.measure, x) for x in model_batches(dataset)])
            elif not isinstance(config, FromClassifier) and config.classes is None:
                known = labelling.read_table(name, config, self._latents, self.say)
                known = known[known.isfinite()]
            else:
                continue
            low, high = torch.quantile(known[:1_000_000], torch.tensor([0.01, 0.99])).tolist()
            if not high > low:
                raise UserError(f"does not vary over the data (it is {low:g})", f"model.attributes.{name}")
            self.model.remember(name, low=low, high=high)

    def assume_data(self) -> None:
        self._latents = TRIAL

    def labelled(self) -> tuple[Tensor, dict[str, Tensor]]:
        """(N, width) what the classifiers read, and (N,) labels of every attribute, -1 where there is none.

        Raises:
            UserError: a labeller that cannot be used, or labels that teach nothing.
        """
        if self._labelled is None or self._labelled[0].device != self.device:
            w, known = self.label(range(self._latents))
            if self.exclude is not None:
                kept = truth(self.exclude, self.readings(known)) < 0.5
                self.say(f"{int((~kept).sum())} of {len(kept)} latents are left out: {self.exclude}")
                w, known = w[kept], {name: value[kept] for name, value in known.items()}
            if self._latents > TRIAL:
                for name, value in known.items():
                    labelling.check_labels(name, value, self.classes_of[name], self.say)
            self._labelled = w, known
        return self._labelled

    @torch.no_grad()
    def label(self, indices: range) -> tuple[Tensor, dict[str, Tensor]]:
        """As `labelled`, of these latents, without checks."""
        parts: list[tuple[Tensor, dict[str, Tensor]]] = []
        for start in range(indices.start, indices.stop, BLOCK):
            rows = range(start, min(start + BLOCK, indices.stop))
            z, label = self.latents(self.recipe.model.seed, rows), self.held_labels(rows)
            w = self.generator.map(z, label)
            pictures = self.generator.pictures(w)
            parts.append(
                (
                    self.read_space(z, w, label),
                    {n: self.read(n, pictures) for n in self.recipe.model.attributes},
                )
            )
        known = {name: torch.cat([part[1][name] for part in parts]) for name in self.recipe.model.attributes}
        for name, config in self.recipe.model.attributes.items():
            if not isinstance(config, FromClassifier | FromMeasure):
                table = labelling.read_table(name, config, indices.stop, self.say)[indices.start :].to(
                    self.device
                )
                value = table if config.classes is not None else self.model.scaled(name, table)
                known[name] = torch.where(table.isfinite(), value, -1)
        return torch.cat([part[0] for part in parts]), known

    def latents(self, seed: int, indices: range) -> Tensor:
        """(B, d) the generator's own latents of these samples of a seed."""
        return Noise(seed, indices, (self.generator.latent,), self.device).normal("prior")

    def held_labels(self, indices: range, cycle: Sequence[int] | None = None) -> Tensor | None:
        """(B,) the class labels of these samples, which nothing leads; None where the generator has no classes.

        Args:
            cycle: classes that samples take in turn; None: all, as `gentool sample` does.
        """
        assert self.base is not None
        if not self.base.classes:
            return None
        cycle = range(self.base.classes) if cycle is None else cycle
        return torch.tensor([cycle[i % len(cycle)] for i in indices], device=self.device)

    def read_space(self, z: Tensor, w: Tensor, label: Tensor | None) -> Tensor:
        """(B, ...) what the classifiers read: w, or z and the label, one-hot, where there is one."""
        if self.recipe.model.space == "w":
            return w
        assert self.base is not None
        return z if label is None else torch.cat([z, F.one_hot(label, self.base.classes).to(z)], 1)

    def read(self, name: str, pictures: Tensor) -> Tensor:
        """(B,) an attribute of pictures by its labeller or measure, -1 where it is not known."""
        config = self.recipe.model.attributes[name]
        if isinstance(config, FromMeasure):
            return self.measured(name, config, pictures)
        if not isinstance(config, FromClassifier):
            return torch.full((len(pictures),), -1.0, device=pictures.device)
        if name not in self._labellers or self._labellers[name].judge.device != self.device:
            assert self.open_run is not None
            opened = self.open_run(config.run).to(self.device)
            made = labelling.Labeller(name, config, opened, self.spec.shape, len(self.classes_of[name]))
            self._labellers[name] = made
            self.model.remember(name, digest=made.digest)
        return self._labellers[name](pictures)

    def measured(self, name: str, config: FromMeasure, pictures: Tensor) -> Tensor:
        """(B,) a measure in [0, 1], or the class it falls into: exact, so that it judges as well."""
        value = self.model.scaled(name, measure(config.measure, pictures))
        return value if config.above is None else (value > config.above).float()

    def readings(self, known: dict[str, Tensor]) -> dict[str, Tensor]:
        """Labels as `energy.truth` takes them: classes as integers."""
        return {name: value.long() if self.classes_of[name] else value for name, value in known.items()}

    # Training

    def examples(self, batch: Batch) -> Examples:
        """As many labelled latents as the batch has pictures, which themselves only set the numbers' ranges."""
        w, known = self.labelled()
        rows = self.global_draw(
            len(batch.x), lambda n: torch.randint(len(w), (n,), generator=self.rng, device=self.device)
        )
        return {"w": w[rows], **{f"label_{name}": value[rows] for name, value in known.items()}}

    def losses(self, examples: Examples) -> Tensor:
        """(B,) summed over attributes."""
        labels = {name: examples[f"label_{name}"] for name in self.model.names}
        return masked_losses(self.model(examples["w"]), labels)

    @torch.no_grad()
    def evaluate_model(
        self, held_out: DataSet, *, seed: int = 0, report: Callable[[int, int], None] | None = None
    ) -> dict[str, float]:
        """Against labels of latents that it did not learn from: `accuracy-NAME`, `error-NAME` (root mean square)."""
        w, known = self.label(range(self._latents, self._latents + TESTED))
        outputs, figures = self.model(w), {}
        for name, label in known.items():
            there = label >= 0
            output, label = outputs[name][there], label[there]
            if len(label) == 0:
                continue
            if self.classes_of[name]:
                figures[f"accuracy-{name}"] = float((output.argmax(1) == label.long()).float().mean())
            else:
                figures[f"error-{name}"] = float((output[:, 0] - label).square().mean().sqrt())
        if report is not None:
            report(TESTED, TESTED)
        return figures

    def heads(self, z: Tensor, w: Tensor, label: Tensor | None) -> dict[str, Tensor]:
        """What the classifiers say of latents z (B, d) and the w (B, width) that they map to."""
        found: dict[str, Tensor] = self.model(self.read_space(z, w, label))
        return found

    def alike(self, name: str) -> set[str]:
        """The attributes that read the same thing as this one, itself among them, as a number and as two classes."""
        attributes = self.recipe.model.attributes
        return {
            other
            for other, config in attributes.items()
            if source(other, config) == source(name, attributes[name])
        }


def class_names(config: AttributeConfig, spec: DataSpec) -> tuple[str, ...]:
    """The classes of an attribute; none where it is a number."""
    if isinstance(config, FromMeasure):
        return () if config.above is None else ("no", "yes")
    return (
        (config.classes or spec.class_names) if isinstance(config, FromClassifier) else (config.classes or ())
    )


def source(name: str, config: AttributeConfig) -> tuple[str, ...]:
    """What an attribute is read from."""
    match config:
        case FromMeasure():
            return ("measure", config.measure)
        case FromClassifier():
            return ("classifier", config.run)
        case FromTable():
            return ("table", config.path, config.column or name)
