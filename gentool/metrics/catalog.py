"""What can be judged and by which eyes: metrics and feature extractors by name, without importing torch.

A new metric is one file with a function `(Evidence) -> Judgement` and one `MetricInfo` here; a third party
adds an entry point of the group `gentool.metrics` whose value names a `MetricInfo`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gentool.errors import UserError
from gentool.metrics.options import CloudOptions, DownstreamOptions, check
from gentool.recipes.schema import Strict
from gentool.registry import Registry

Need = Literal["moments", "features", "probabilities", "classes", "clouds", "labels", "held-out"]
"""What a metric reads: `moments` (mean and covariance of features), `features` (all of them), `probabilities`
(of an extractor that classifies), `classes` (those are the reference's own classes), `clouds` (all points), `labels`
(the samples carry labels), `held-out` (real images that the model never saw)."""


@dataclass(frozen=True)
class MetricInfo:
    """One entry of the catalogue.

    Attributes:
        name: how recipes and the command line call it.
        summary: one line for listings.
        target: `"package.module:function"`, imported when the metric runs.
        needs: what must be gathered before it can run.
        values: the figures it reports, each with whether higher is better (None: neither).
        options: the schema of its settings, which its function takes as a second argument; None: it has none.
    """

    name: str
    summary: str
    target: str
    needs: frozenset[Need]
    values: Mapping[str, bool | None]
    options: type[Strict] | None = None


@dataclass(frozen=True)
class ExtractorInfo:
    """A feature extractor: `target` is a function `(Images, Workshop) -> Extractor`."""

    name: str
    summary: str
    target: str
    gives: frozenset[Need]


FID = MetricInfo(
    "fid",
    "Frechet distance of Gaussians fitted to features",
    "gentool.metrics.frechet:fid",
    frozenset({"moments"}),
    {"fid": False},
)
KID = MetricInfo(
    "kid",
    "unbiased squared MMD of features, cubic polynomial kernel",
    "gentool.metrics.kid:kid",
    frozenset({"features"}),
    {"kid": False},
)
PRECISION_RECALL = MetricInfo(
    "precision-recall",
    "improved precision and recall: shares inside the other set's k-NN manifold (k = 3)",
    "gentool.metrics.neighbours:precision_recall",
    frozenset({"features"}),
    {"precision": True, "recall": True},
)
DENSITY_COVERAGE = MetricInfo(
    "density-coverage",
    "density and coverage of the reference's k-NN balls (k = 5)",
    "gentool.metrics.neighbours:density_coverage",
    frozenset({"features"}),
    {"density": True, "coverage": True},
)
INCEPTION_SCORE = MetricInfo(
    "inception-score",
    "exp of the mean KL of class probabilities to their marginal, on the extractor's own classifier",
    "gentool.metrics.inception_score:inception_score",
    frozenset({"probabilities"}),
    {"inception-score": True},
)
MEMORISATION = MetricInfo(
    "memorisation",
    "distance of samples to their nearest reference image, against that of held-out images",
    "gentool.metrics.memorisation:memorisation",
    frozenset({"features", "held-out"}),
    {"near-copies": False, "nearest-ratio": None, "copying-z": None},
)
LABEL_ACCURACY = MetricInfo(
    "label-accuracy",
    "share of samples that a classifier of the reference recognises as their label",
    "gentool.metrics.label_accuracy:label_accuracy",
    frozenset({"classes", "labels"}),
    {"label-accuracy": True},
)
CAS = MetricInfo(
    "cas",
    "classification accuracy score: a classifier trained on the samples, tested on held-out images",
    "gentool.metrics.cas:cas",
    frozenset({"labels", "held-out"}),
    {"cas": True},
)

DOWNSTREAM = MetricInfo(
    "downstream",
    "accuracy on held-out images of logistic regression, MLP and CNN trained on the samples",
    "gentool.metrics.downstream:downstream",
    frozenset({"labels", "held-out"}),
    {"downstream-logreg": True, "downstream-mlp": True, "downstream-cnn": True},
    DownstreamOptions,
)

_CLOUDS: frozenset[Need] = frozenset({"clouds", "held-out"})
CLOUD_CD = MetricInfo(
    "cloud-cd",
    "1-NN accuracy (0.5 is best), minimum matching distance and coverage of held-out shapes, by Chamfer distance",
    "gentool.metrics.clouds:cloud_cd",
    _CLOUDS,
    {"1-nna-cd": None, "mmd-cd": False, "cov-cd": True},
    CloudOptions,
)
CLOUD_EMD_APPROX = MetricInfo(
    "cloud-emd-approx",
    "the same by the approximate earth mover's distance of papers (squared distances)",
    "gentool.metrics.clouds:cloud_emd_approx",
    _CLOUDS,
    {"1-nna-emd-approx": None, "mmd-emd-approx": False, "cov-emd-approx": True},
    CloudOptions,
)
CLOUD_EMD_EXACT = MetricInfo(
    "cloud-emd-exact",
    "the same by the exact earth mover's distance; slow: set its option points",
    "gentool.metrics.clouds:cloud_emd_exact",
    _CLOUDS,
    {"1-nna-emd-exact": None, "mmd-emd-exact": False, "cov-emd-exact": True},
    CloudOptions,
)
CLOUD_JSD = MetricInfo(
    "cloud-jsd",
    "Jensen-Shannon divergence of where points lie, in bits",
    "gentool.metrics.clouds:cloud_jsd",
    _CLOUDS,
    {"jsd": False},
    CloudOptions,
)
CLOUD_LABELS = MetricInfo(
    "cloud-labels",
    "share of clouds whose nearest held-out cloud, by Chamfer distance, has the label they were asked to show",
    "gentool.metrics.cloud_labels:cloud_labels",
    _CLOUDS | {"labels"},
    {"cloud-label-accuracy": True},
    CloudOptions,
)

VALUES = ExtractorInfo(
    "values",
    "vectors as they are (toy2d)",
    "gentool.metrics.features:Values",
    frozenset({"moments", "features"}),
)
PIXELS = ExtractorInfo(
    "pixels",
    "the pixels themselves, averaged down to 32 x 32 at most",
    "gentool.metrics.features:Pixels",
    frozenset({"moments", "features"}),
)
CLASSIFIER = ExtractorInfo(
    "classifier",
    "penultimate features of a classifier trained once on the reference, then cached; or of --classifier RUN",
    "gentool.metrics.classifier:classifier",
    frozenset({"moments", "features", "probabilities", "classes"}),
)
INCEPTION = ExtractorInfo(
    "inception",
    "2,048 pool features of the FID Inception V3, from a local safetensors file (GENTOOL_INCEPTION)",
    "gentool.metrics.inception:inception",
    frozenset({"moments", "features", "probabilities"}),
)
CLOUDS = ExtractorInfo(
    "clouds",
    "clouds of points, in the frame that published figures are measured in",
    "gentool.metrics.clouds:Clouds",
    frozenset({"clouds"}),
)


def _entries(kind: type[MetricInfo] | type[ExtractorInfo]) -> dict[str, str]:
    """The constants above by their public name, in order, as the registry wants them."""
    return {value.name: f"{__name__}:{key}" for key, value in globals().items() if isinstance(value, kind)}


METRICS: Registry[MetricInfo] = Registry("metric", _entries(MetricInfo), group="gentool.metrics")
EXTRACTORS: Registry[ExtractorInfo] = Registry("feature extractor", _entries(ExtractorInfo))


def plan(metrics: Iterable[str], extractor: str) -> list[MetricInfo]:
    """The metrics by name, each once, after checking that the extractor gives what they read.

    Raises:
        UserError: an unknown name, no metric at all, or a metric that this extractor cannot serve.
    """
    gives = EXTRACTORS.get(extractor).gives
    chosen = [METRICS.get(name) for name in dict.fromkeys(metrics)]
    if not chosen:
        raise UserError(f"no metric was asked for (there are: {', '.join(METRICS.names())})")
    for info in chosen:
        if missing := info.needs - gives - {"labels", "held-out"}:
            able = [name for name in EXTRACTORS if missing <= EXTRACTORS.get(name).gives]
            raise UserError(
                f"{info.name} needs {' and '.join(sorted(missing))}, which the extractor {extractor!r} "
                f"does not give; use {' or '.join(able)}"
            )
    return chosen


def settings(chosen: Iterable[MetricInfo], given: Mapping[str, Any]) -> dict[str, Strict]:
    """The checked options of those metrics that have any; `given` holds what differs from their defaults, by metric.

    Options of metrics that are not asked for are checked too, and not returned.

    Raises:
        RecipeError: an unknown option, or a wrong value. UserError: an unknown metric, or one without options.
    """
    for name, options in given.items():
        schema = METRICS.get(name).options
        if schema is None:
            able = [other for other in METRICS if METRICS.get(other).options is not None]
            raise UserError(f"{name} has no options; those that have are {', '.join(able)}")
        check(schema, options, f"options of {name}")
    return {
        info.name: check(info.options, given.get(info.name, {}), f"options of {info.name}")
        for info in chosen
        if info.options is not None
    }
