"""gentool evaluate: samples, or a run that draws them, against the data they should look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gentool import families
from gentool.data import open_set
from gentool.errors import UserError
from gentool.families.names import BITS_PER_DIM
from gentool.metrics.cache import Cache, default_folder
from gentool.metrics.catalog import METRICS, plan
from gentool.metrics.catalog import settings as check_options
from gentool.metrics.evaluate import evaluate as judge
from gentool.metrics.features import Workshop, make_extractor
from gentool.metrics.images import ImageSet, as_images, check_comparable
from gentool.recipes.resolve import Resolved, resolve_text
from gentool.recipes.schema import Evaluate
from gentool.runs.folder import RunFolder
from gentool.runs.samples import Samples, read_samples
from gentool.tasks.evaluation.likelihood import bits_per_dim
from gentool.tasks.evaluation.own_figures import of_model
from gentool.tasks.evaluation.reference import own_classifier, reference_data
from gentool.tasks.evaluation.result import Evaluated
from gentool.tasks.model.load import best_device, data_spec, load_run, stored_recipe
from gentool.tasks.sample import sample
from gentool.tasks.sampling.ranks import Ranks
from gentool.training.watching import Report, Say, unreported, unsaid

DEFAULTS = {"points": ("cloud-cd",)}
"""Metrics by kind of data, where the recipe's own defaults, which are of pictures, cannot be measured."""
Found = tuple[np.ndarray, np.ndarray | None, Path]
"""Images, their labels, and the file that holds them."""


def evaluate(
    target: str,
    *,
    reference: str | None = None,
    metrics: Sequence[str] = (),
    features: str | None = None,
    options: Mapping[str, Any] | None = None,
    classifier: str | None = None,
    count: int | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    report: Report = unreported,
    say: Say = unsaid,
) -> Evaluated:
    """Judges a run (drawing `count` samples first) or a samples file.

    A model that draws no samples (a classifier) is judged by its own figures, on held-out data. Processes that srun
    or torchrun started together share the sampling of a run; rank 0 judges.

    Args:
        reference: a data set by name or path, its options after it (`"shapes points=1024"`); None takes the one the
            recipe names.
        metrics, features, count: None or empty takes the recipe's `evaluate:` block.
        options: what differs from the options of metrics there, by metric and key.
        classifier: a run of a classifier that is the extractor `classifier`, instead of one trained on the reference.
        settings: what differs from the recipe's `sample:` block, for a run.

    Raises:
        UserError: no reference is known, or the samples do not fit it.
    """
    if not Path(target).exists():
        raise UserError("no such run folder or samples file", target)
    run = RunFolder.open(target) if (Path(target) / "recipe.yaml").is_file() else None
    resolved: Resolved | None
    main, further = Ranks.here().main, Evaluated({}, None, {}, None, None, None, None, main=False)
    if run is None and not main:
        return further
    if run is not None:
        resolved, provenance, kind = stored_recipe(run), run.read_provenance(), data_spec(run).kind
        if main and resolved.recipe.privacy is not None:
            say(
                "note: figures and reports of a private run are computed from its data, and no epsilon covers them: "
                "keep them with the run"
            )
        if not families.module_class(resolved.recipe.family).draws_samples:
            for switch, given in (("--features", features), ("--classifier", classifier)):
                if given is not None:
                    raise UserError(f"{switch} is for samples; this run draws none", target)
            if not main:
                return further
            return of_model(run, reference, metrics, count, seed, report, say)
        get = partial(_draw, run, resolved, count, seed, settings, report)
    else:
        read = read_samples(target)
        resolved, provenance, kind = _recipe_of(read.provenance), read.provenance, read.kind
        get = partial(_first, read, count, target)
    block = resolved.recipe.evaluate if resolved else Evaluate()
    if classifier is not None and features not in (None, "classifier"):
        raise UserError(
            f"--classifier is for the features `classifier`; with {features} nothing would ask it"
        )
    own = block.metrics if block.metrics != Evaluate().metrics else DEFAULTS.get(kind, block.metrics)
    asked = tuple(metrics) or own
    # No other eyes see clouds, so none need be named.
    chosen = (
        "classifier"
        if classifier is not None
        else features or ("clouds" if kind == "points" else block.features)
    )
    of_samples = [name for name in asked if name != BITS_PER_DIM]
    if BITS_PER_DIM in asked and run is None:
        raise UserError(f"{BITS_PER_DIM} needs the model: give the run folder, not its samples", target)
    figures: dict[str, float] = {}
    details: dict[str, Any] = {}
    evaluation, images, labels, samples = None, None, None, None
    if of_samples:
        # All that can be refused is, before samples are drawn.
        infos = plan(of_samples, chosen)
        if resolved is not None and run is not None and unlabelled(resolved, settings or {}):
            for info in infos:
                if "labels" in info.needs:
                    raise UserError(
                        f"{info.name} needs the class each sample was asked to show; this model is unconditional",
                        target,
                    )
        for name in options or {}:
            if METRICS.check(name) not in of_samples:
                raise UserError(f"--option {name}: the metric is not asked for; add --metric {name}")
        wanted = {name: dict(given) for name, given in block.options.items()}
        for name, given in (options or {}).items():
            wanted[name] = {**wanted.get(name, {}), **given} if isinstance(given, Mapping) else given
        check_options(infos, wanted)
        config = reference_data(reference, resolved, target)
        train, held_out = open_set(config, "train"), open_set(config, "test")
        device = best_device()
        judge_run = (
            None if classifier is None else own_classifier(classifier, train.spec, config.name, device)
        )
        if run is not None:
            check_early(run, ImageSet(train, config.name), chosen, device)
        if run is not None and main:
            say("drawing samples")
        images, labels, samples = get()
        if not main:
            return further
        points = images.shape[1] if train.spec.kind == "points" and images.ndim == 3 else None
        if points is not None and points < train.spec.shape[0]:
            say(
                f"samples have {points} points: held against as many first ones of each shape of {config.name}"
            )
        evaluation = judge(
            as_images(images, labels),
            ImageSet(train, config.name, points),
            of_samples,
            chosen,
            options=wanted,
            held_out=ImageSet(held_out, f"{config.name} (held out)", points),
            cache=default_folder(),
            device=device,
            classifier=judge_run,
            seed=seed,
            progress=lambda name, done, total: report(done, total, {}),
        )
        figures |= evaluation.metrics
        for line in evaluation.warnings:
            say(f"warning: {line}")
    if not main:
        return further
    if BITS_PER_DIM in asked and run is not None:
        _, _, module = load_run(run.path)
        figures[BITS_PER_DIM], details[BITS_PER_DIM] = bits_per_dim(module, seed=seed, report=report)
    return Evaluated(figures, evaluation, details, samples, images, labels, resolved, provenance)


def check_early(run: RunFolder, real: ImageSet, extractor: str, device: torch.device) -> None:
    """What the judges would refuse of samples that are yet to be drawn.

    Raises:
        UserError: pictures of another shape than the reference's, or an extractor that lacks what it needs.
    """
    spec = data_spec(run)
    if spec.kind == "image":
        check_comparable(DrawnLater(run.path.name, spec.shape), real)
    if extractor != "classifier":  # that one is trained, which is the judges' work
        make_extractor(extractor, real, Workshop(Cache(None), device))


@dataclass(frozen=True)
class DrawnLater:
    """Samples of which only the shape is known."""

    name: str
    shape: tuple[int, ...]


def unlabelled(resolved: Resolved, settings: Mapping[str, Any]) -> bool:
    """Whether samples of such a run can carry no labels: the model takes none, and no classifier guides it."""
    recipe = resolved.recipe
    guided = settings.get("guidance", recipe.sample.guidance)
    return getattr(recipe.model, "conditional", True) is False and not guided


def _draw(
    run: RunFolder,
    resolved: Resolved,
    count: int | None,
    seed: int,
    settings: Mapping[str, Any] | None,
    report: Report,
) -> Found:
    drawn = sample(
        run.path,
        count=count or resolved.recipe.evaluate.count or resolved.recipe.sample.count,
        seed=seed,
        settings=settings,
        report=report,
    )
    return drawn.images, drawn.labels, drawn.path


def _first(read: Samples, count: int | None, target: str) -> Found:
    if count is not None and count > len(read.array):
        raise UserError(f"--count {count}: the file holds {len(read.array)} samples", target)
    return read.array[:count], None if read.labels is None else read.labels[:count], Path(target)


def _recipe_of(provenance: Mapping[str, Any]) -> Resolved | None:
    """The recipe that gentool's own samples carry; None for files of other tools."""
    text = provenance.get("recipe")
    return resolve_text(text, "samples", families.recipe_schema) if isinstance(text, str) else None
