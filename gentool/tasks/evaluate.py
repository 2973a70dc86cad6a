"""gentool evaluate: samples, or a run that draws them, against the data they should look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gentool import families
from gentool.data import open_set, parse_source
from gentool.errors import UserError
from gentool.metrics.cache import default_folder
from gentool.metrics.evaluate import Evaluation
from gentool.metrics.evaluate import evaluate as judge
from gentool.metrics.images import ImageArray, ImageSet
from gentool.recipes.resolve import Resolved, resolve_text
from gentool.runs.folder import RunFolder
from gentool.runs.samples import read_samples
from gentool.tasks.likelihood import bits_per_dim
from gentool.tasks.resume import stored_recipe
from gentool.tasks.sample import Sampled, load_run, sample

BITS_PER_DIM = "bits-per-dim"
"""The one figure that needs the model and no samples."""

Say = Callable[[str], None]
Report = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Evaluated:
    """`metrics` are `evaluation`'s and, of a run, its bits per dimension; `samples` is the file that was judged."""

    metrics: dict[str, float]
    evaluation: Evaluation | None
    details: dict[str, Any]
    samples: Path | None
    images: np.ndarray | None
    labels: np.ndarray | None
    resolved: Resolved | None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The JSON document of design.md section 3."""
        base: dict[str, Any] = {
            "features": None,
            "reference": None,
            "count": 0,
            "details": {},
            "warnings": [],
        }
        if self.evaluation is not None:
            base = self.evaluation.document()
        base["details"] = {**base["details"], **self.details}
        return base | {
            "metrics": self.metrics,
            "samples": None if self.samples is None else str(self.samples),
        }


def evaluate(
    target: str,
    *,
    reference: str | None = None,
    metrics: Sequence[str] = (),
    features: str | None = None,
    count: int | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    report: Report | None = None,
    say: Say = lambda line: None,
) -> Evaluated:
    """Judges a run (drawing `count` samples first) or a samples file.

    Args:
        reference: a data set by name or path; None takes the one the recipe names.
        metrics, features, count: None or empty takes the recipe's `evaluate:` block.
        settings: what differs from the recipe's `sample:` block, for a run.

    Raises:
        UserError: no reference is known, or the samples do not fit it.
    """
    run = RunFolder.open(target) if (Path(target) / "recipe.yaml").is_file() else None
    drawn: Sampled | None = None
    resolved: Resolved | None
    if run is not None:
        resolved = stored_recipe(run)
        asked = tuple(metrics) or resolved.recipe.evaluate.metrics
        if any(name != BITS_PER_DIM for name in asked):
            say("drawing samples")
            drawn = _draw(run, resolved, count, seed, settings, report)
            images, labels, provenance = drawn.images, drawn.labels, run.read_provenance()
        else:
            images, labels, provenance = None, None, run.read_provenance()
        samples = None if drawn is None else drawn.path
    else:
        read = read_samples(target)
        images, labels, provenance, samples = read.array, read.labels, read.provenance, Path(target)
        images, labels = _first(images, labels, count, target)
        resolved = _recipe_of(provenance)
        asked = tuple(metrics) or (
            resolved.recipe.evaluate.metrics if resolved else ("fid", "precision-recall")
        )
        if BITS_PER_DIM in asked:
            raise UserError(f"{BITS_PER_DIM} needs the model: give the run folder, not its samples", target)
    figures: dict[str, float] = {}
    details: dict[str, Any] = {}
    evaluation = None
    if images is not None:
        if reference is None and resolved is None:
            raise UserError(
                "the file does not say what it was trained on: name the data with --reference", target
            )
        config = resolved.recipe.data if reference is None and resolved else parse_source(str(reference))
        chosen = features or (resolved.recipe.evaluate.features if resolved else "classifier")
        evaluation = judge(
            ImageArray(images, labels, name="samples"),
            ImageSet(open_set(config, "train"), config.name),
            [name for name in asked if name != BITS_PER_DIM],
            chosen,
            held_out=ImageSet(open_set(config, "test"), f"{config.name} (held out)"),
            cache=default_folder(),
            device="cuda" if torch.cuda.is_available() else "cpu",
            seed=seed,
        )
        figures |= evaluation.metrics
        for line in evaluation.warnings:
            say(f"warning: {line}")
    if BITS_PER_DIM in asked and run is not None:
        _, _, module = load_run(run.path)
        figures[BITS_PER_DIM], details[BITS_PER_DIM] = bits_per_dim(module, seed=seed, report=report)
    return Evaluated(figures, evaluation, details, samples, images, labels, resolved, provenance)


def _draw(
    run: RunFolder,
    resolved: Resolved,
    count: int | None,
    seed: int,
    settings: Mapping[str, Any] | None,
    report: Report | None,
) -> Sampled:
    wanted = count or resolved.recipe.evaluate.count or resolved.recipe.sample.count
    return sample(
        run.path,
        count=wanted,
        seed=seed,
        settings=settings,
        on_sample=None if report is None else lambda done, total: report(done, total, {}),
    )


def _first(
    images: np.ndarray, labels: np.ndarray | None, count: int | None, target: str
) -> tuple[np.ndarray, np.ndarray | None]:
    if count is None:
        return images, labels
    if count > len(images):
        raise UserError(f"--count {count}: the file holds {len(images)} samples", target)
    return images[:count], None if labels is None else labels[:count]


def _recipe_of(provenance: Mapping[str, Any]) -> Resolved | None:
    """The recipe that gentool's own samples carry; None for files of other tools."""
    text = provenance.get("recipe")
    return resolve_text(text, "samples", families.recipe_schema) if isinstance(text, str) else None
