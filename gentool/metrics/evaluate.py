"""Samples against a reference: one pass over each set, any number of metrics, one extractor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from gentool.errors import UserError
from gentool.metrics.cache import Cache
from gentool.metrics.catalog import MetricInfo, Need, plan, settings
from gentool.metrics.classifier import OwnClassifier
from gentool.metrics.evidence import Evidence, Judgement
from gentool.metrics.features import Workshop, make_extractor
from gentool.metrics.featureset import FeatureSet, Progress, look
from gentool.metrics.images import Images, check_comparable
from gentool.registry import resolve


@dataclass(frozen=True)
class Evaluation:
    """Figures, and all that is needed to compare them with others.

    Attributes:
        metrics: the figures by name; every one was made with the same extractor, reference and samples.
        features: the extractor. Figures of different extractors never belong in one column.
        reference: the reference set's name.
        count: how many samples were judged.
        preprocessing: what the extractor does to uint8 pixels.
        extractor: what the extractor says of itself (its accuracy, its weights), or "".
        reference_fingerprint, reference_count: which reference images, and how many.
        details: settings and by-products of each metric, by metric.
        warnings: what a reader must mind.
    """

    metrics: dict[str, float]
    features: str
    reference: str
    count: int
    preprocessing: str
    extractor: str
    reference_fingerprint: str
    reference_count: int
    details: dict[str, dict[str, Any]]
    warnings: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"warnings": list(self.warnings)}


def evaluate(
    samples: Images,
    reference: Images,
    metrics: Sequence[str],
    extractor: str = "classifier",
    *,
    options: Mapping[str, Any] | None = None,
    held_out: Images | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    inception: Path | None = None,
    classifier: OwnClassifier | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Judges `samples` by each of `metrics` (names of the catalogue).

    Args:
        samples: what is judged.
        reference: the images the model was trained on; also what the extractor `classifier` is trained on.
        metrics: names; each is computed once.
        extractor: `classifier`, `pixels` or `inception`.
        options: what differs from the metrics' default options, by metric.
        held_out: real images that the model never saw; `memorisation`, `cas` and `downstream` need them.
        cache: a folder for trained classifiers and reference features (`cache.default_folder()`); None keeps
            nothing.
        device: where networks and distances run.
        inception: the weights of the extractor `inception`; absent: the file that GENTOOL_INCEPTION names.
        classifier: one of the user's, which the extractor `classifier` is then; None trains it on the reference.
        seed: fixes random subsets.
        progress: told (set, images done, images in all) after each block.

    Raises:
        UserError: an unknown name; sets that differ in size, channels or range; labels or images that a
            metric needs and that are not there; features that are not finite.
    """
    chosen = plan(metrics, extractor)
    settled = settings(chosen, options or {})
    _check(samples, reference, held_out, chosen)
    device = torch.device(device)
    store = Cache(cache)
    eyes = make_extractor(extractor, reference, Workshop(store, device, inception, classifier, held_out))
    needs: set[Need] = set().union(*(info.needs for info in chosen))
    ours = look(samples, eyes, needs, None, progress)
    theirs = look(reference, eyes, needs & {"moments", "features"}, store, progress)
    _check_levels(ours, theirs)
    unseen = None
    if held_out is not None and "held-out" in needs:
        of_held_out = (info.needs for info in chosen if "held-out" in info.needs)
        wanted: set[Need] = set().union(*of_held_out) & {"features", "clouds", "labels"}
        unseen = look(held_out, eyes, wanted, store, progress)
    evidence = Evidence(ours, theirs, unseen, device, seed)
    judgements: dict[str, Judgement] = {}
    for info in chosen:
        arguments = [settled[info.name]] if info.name in settled else []
        judgements[info.name] = resolve(info.target)(evidence, *arguments)
    return Evaluation(
        metrics={name: value for judged in judgements.values() for name, value in judged.values.items()},
        features=eyes.name,
        reference=reference.name,
        count=len(samples),
        preprocessing=eyes.preprocessing,
        extractor=eyes.note,
        reference_fingerprint=reference.fingerprint,
        reference_count=len(reference),
        details={name: judged.details for name, judged in judgements.items()},
        warnings=tuple(line for judged in judgements.values() for line in judged.warnings),
    )


def _check(samples: Images, reference: Images, held_out: Images | None, chosen: Sequence[MetricInfo]) -> None:
    """Everything that can be refused before any work is done."""
    check_comparable(samples, reference)
    if held_out is not None:
        check_comparable(held_out, reference)
    for info in chosen:
        if "held-out" in info.needs:
            if held_out is None:
                raise UserError(
                    f"{info.name} needs held-out images (a test split), which the model never saw"
                )
            if held_out.fingerprint == reference.fingerprint:
                raise UserError("is the reference itself: held-out images must be others", held_out.name)
            if "labels" in info.needs and held_out.classes is None:
                raise UserError(f"{info.name} needs labels of the held-out images", held_out.name)
        if "labels" in info.needs:
            if samples.classes is None:
                raise UserError(
                    f"{info.name} needs the class each sample was asked to show, but the samples carry no "
                    "labels; sample with labels, from a conditional model",
                    samples.name,
                )
            if reference.classes is None:
                raise UserError(f"{info.name} needs its labels, and it has none", reference.name)
            if samples.classes > reference.classes:
                raise UserError(
                    f"have {samples.classes} classes, but {reference.name} has {reference.classes}",
                    samples.name,
                )


def _check_levels(samples: FeatureSet, reference: FeatureSet) -> None:
    """Refuses pixels of 0..1 against pixels of 0..255: floats that were cast to bytes without scaling."""
    for dark, full in ((samples, reference), (reference, samples)):
        if dark.levels == (0, 1) and full.levels[1] > 1:
            raise UserError(
                f"pixels lie in 0..1, those of {full.name} in {full.levels[0]}..{full.levels[1]}: "
                "scale them by 255 before they become bytes",
                dark.name,
            )
