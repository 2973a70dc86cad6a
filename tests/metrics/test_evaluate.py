"""The whole evaluation on real digits: sensible figures, a complete record, refusals that name the fault."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch

from gentool import registry
from gentool.data import make_config, open_set
from gentool.errors import UserError
from gentool.metrics import featureset
from gentool.metrics.catalog import EXTRACTORS, METRICS, MetricInfo
from gentool.metrics.evaluate import Evaluation, evaluate
from gentool.metrics.evidence import Evidence, Judgement
from gentool.metrics.images import ImageArray, ImageSet
from gentool.registry import resolve

OF_IMAGES = [name for name in METRICS if "clouds" not in METRICS.get(name).needs]
UNLABELLED = ["fid", "kid", "precision-recall", "density-coverage"]


def noise(count: int, shape: tuple[int, ...] = (8, 8, 1)) -> ImageArray:
    return ImageArray(
        np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8), name="noise"
    )


@pytest.fixture(scope="module")
def real(train: ImageArray, test: ImageArray, digits: tuple, cache: Path) -> Evaluation:
    """Unseen real digits in the place of samples, by every metric of images."""
    half = ImageArray(digits[0][900:1350], digits[1][900:1350], name="samples")
    rest = ImageArray(digits[0][1350:], digits[1][1350:], name="digits test")
    return evaluate(half, train, OF_IMAGES, held_out=rest, cache=cache)


def test_real_images_are_judged_to_be_good(real: Evaluation) -> None:
    values = real.metrics
    assert values["fid"] < 1
    assert abs(values["kid"]) < 0.05
    assert min(values["precision"], values["recall"], values["coverage"]) > 0.8
    assert values["density"] == pytest.approx(1, abs=0.2)
    assert values["label-accuracy"] > 0.95
    assert 8 < values["inception-score"] <= 10
    assert values["near-copies"] < 0.1
    assert values["nearest-ratio"] == pytest.approx(1, abs=0.15)
    assert abs(values["copying-z"]) < 3
    assert real.warnings == ()


def test_classification_accuracy_score_of_real_digits(real: Evaluation) -> None:
    assert real.metrics["cas"] > 0.9
    assert real.details["cas"] == {"trained_on": 450, "tested_on": 447}


def test_the_record_says_how_the_figures_were_made(real: Evaluation, train: ImageArray) -> None:
    document = json.loads(json.dumps(real.document(), allow_nan=False))
    assert {
        "metrics",
        "features",
        "reference",
        "count",
        "preprocessing",
        "details",
        "warnings",
    } <= document.keys()
    assert (document["features"], document["reference"], document["count"]) == (
        "classifier",
        "digits train",
        450,
    )
    assert document["reference_fingerprint"] == train.fingerprint
    assert "accuracy 0.9" in document["extractor"]
    assert list(document["metrics"]) == [
        value for info in map(METRICS.get, OF_IMAGES) for value in info.values
    ]


def test_noise_is_judged_to_be_worse(train: ImageArray, real: Evaluation, cache: Path) -> None:
    values = evaluate(noise(400), train, [*UNLABELLED, "inception-score"], cache=cache).metrics
    assert values["fid"] > 20 * real.metrics["fid"]
    assert values["kid"] > 0.2
    assert max(values["density"], values["coverage"]) < 0.2
    assert values["inception-score"] < real.metrics["inception-score"]


def test_copies_of_training_images_are_caught(digits: tuple, train: ImageArray, test: ImageArray) -> None:
    """A tenth of the samples is training images give or take one level; the rest is new."""
    images = digits[0][900:1350].copy()
    images[:45] = np.clip(digits[0][:45].astype(int) + 1, 0, 255)
    result = evaluate(ImageArray(images), train, ["memorisation"], "pixels", held_out=test)
    assert 0.1 <= result.metrics["near-copies"] < 0.13
    copies = ImageArray(digits[0][:300])
    result = evaluate(copies, train, ["memorisation"], "pixels", held_out=test)
    assert result.metrics["near-copies"] == 1
    assert result.metrics["nearest-ratio"] < 1e-6
    assert result.metrics["copying-z"] < -20
    assert "closer to the training images" in result.warnings[0]


def test_wrong_labels_cost_label_accuracy(digits: tuple, train: ImageArray, cache: Path) -> None:
    labels = digits[1][900:].copy()
    labels[labels == 3] = 5
    result = evaluate(ImageArray(digits[0][900:], labels), train, ["label-accuracy"], cache=cache)
    share = float((digits[1][900:] == 3).mean())
    assert result.metrics["label-accuracy"] == pytest.approx(1 - share, abs=0.04)
    by_class = result.details["label-accuracy"]["by_class"]
    assert "3" not in by_class
    assert min(by_class, key=by_class.__getitem__) == "5"


def test_the_same_figures_for_any_block_size(
    train: ImageArray, test: ImageArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(test, train, UNLABELLED, "pixels").metrics
    monkeypatch.setattr("gentool.metrics.images.BATCH", 37)
    assert evaluate(test, train, UNLABELLED, "pixels").metrics == pytest.approx(whole, rel=1e-9)


def test_the_order_of_images_changes_no_distance(digits: tuple, train: ImageArray) -> None:
    images = digits[0][900:]
    forth, back = (
        evaluate(ImageArray(z), train, ["fid"], "pixels").metrics["fid"] for z in (images, images[::-1])
    )
    assert forth == pytest.approx(back, rel=1e-10)


def test_moments_alone_keep_no_features(
    train: ImageArray, test: ImageArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    real_look = featureset.look

    def spy(*args: object) -> featureset.FeatureSet:
        kept.append(real_look(*args))  # type: ignore[arg-type]
        return kept[-1]

    monkeypatch.setattr("gentool.metrics.evaluate.look", spy)
    evaluate(test, train, ["fid"], "pixels")
    assert [set(seen.found) for seen in kept] == [{"moments"}, {"moments"}]


def test_fewer_images_than_dimensions_is_stable_and_warns(digits: tuple, train: ImageArray) -> None:
    result = evaluate(ImageArray(digits[0][900:930], name="few"), train, ["fid"], "pixels")
    assert np.isfinite(result.metrics["fid"])
    assert result.metrics["fid"] > 0
    assert len(result.warnings) == 1
    assert "30 images in few for 64 feature dimensions" in result.warnings[0]


def test_large_images_are_averaged_down_for_pixel_features() -> None:
    samples = noise(40, (64, 64, 3))
    result = evaluate(samples, noise(30, (64, 64, 3)), ["kid"], "pixels")
    assert result.preprocessing == "x / 127.5 - 1, averaged down to 32x32"


class Broken(ImageArray):
    """Says one thing and does another."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, None]]:
        yield torch.zeros(5, 1, 9, 9, dtype=torch.uint8), None


def test_refusals_name_the_fault(digits: tuple, train: ImageArray, test: ImageArray, cache: Path) -> None:
    images, labels = digits[0][900:], digits[1][900:]
    plain = ImageArray(images)

    def refused(
        match: str, samples: ImageArray, metrics: list[str], extractor: str = "pixels", **more: object
    ) -> None:
        with pytest.raises(UserError, match=match):
            evaluate(samples, train, metrics, extractor, **more)  # type: ignore[arg-type]

    refused("unknown metric 'fdi'; did you mean fid", plain, ["fdi"])
    refused("unknown feature extractor 'pixel'", plain, ["fid"], "pixel")
    refused("no metric was asked for", plain, [])
    refused("noise: are RGB 8x8, but digits train is grayscale 8x8", noise(9, (8, 8, 3)), ["fid"])
    refused("are grayscale 9x8", noise(9, (9, 8, 1)), ["fid"])
    refused("samples carry no labels", plain, ["label-accuracy"], "classifier")
    refused("cas needs held-out images", ImageArray(images, labels), ["cas"])
    refused("label-accuracy needs classes, which the extractor 'pixels'", test, ["label-accuracy"])
    refused("use classifier or inception", plain, ["inception-score"])
    refused(
        "have 12 classes, but digits train has 10",
        ImageArray(images, labels + 2),
        ["label-accuracy"],
        "classifier",
    )
    refused(
        r"pixels lie in 0\.\.1, those of digits train in 0\.\.255",
        ImageArray((images > 127).astype(np.uint8)),
        ["fid"],
    )
    refused("expected 897 of uint8", Broken(images), ["fid"])
    refused("is the reference itself", test, ["memorisation"], held_out=train)
    refused("cas needs labels of the held-out images", test, ["cas"], held_out=plain)
    refused("inception needs", plain, ["fid"], "inception")
    unlabelled = ImageArray(images, name="bare")
    with pytest.raises(UserError, match="bare: has no labels to train the extractor"):
        evaluate(plain, unlabelled, ["fid"])
    with pytest.raises(UserError, match="too few to train"):
        evaluate(plain, ImageArray(images[:9], labels[:9]), ["fid"])


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (np.zeros((3, 8, 8, 1), np.float32), None, "pixels are float32, expected uint8"),
        (np.zeros((3, 8, 8), np.uint8), None, r"shape \(3, 8, 8\), expected"),
        (np.zeros((3, 8, 8, 4), np.uint8), None, "C = 1 or 3"),
        (np.zeros((0, 8, 8, 1), np.uint8), None, "N > 0"),
        (np.zeros((3, 8, 8, 1), np.uint8), np.zeros(2, int), "expected 3 integers"),
        (np.zeros((3, 8, 8, 1), np.uint8), np.zeros(3), "labels are float64"),
        (np.zeros((3, 8, 8, 1), np.uint8), np.array([0, -1, 0]), "not be negative"),
    ],
)
def test_arrays_that_are_not_images_are_refused(
    images: np.ndarray, labels: np.ndarray | None, match: str
) -> None:
    with pytest.raises(UserError, match=match):
        ImageArray(images, labels)


class Blind:
    """An extractor that gives NaN."""

    name, dim, device, preprocessing, identity, note = "blind", 2, torch.device("cpu"), "", "blind", ""

    def __call__(self, x: torch.Tensor, classify: bool) -> tuple[torch.Tensor, None]:
        return torch.full((len(x), 2), float("nan")), None


def test_features_that_are_not_finite_are_refused(test: ImageArray) -> None:
    with pytest.raises(UserError, match="'blind' gave a NaN or infinite feature among images 0 to 255"):
        featureset.look(test, Blind(), {"moments"})


def test_every_entry_of_the_catalogue_resolves() -> None:
    for name in METRICS:
        info = METRICS.get(name)
        assert info.name == name
        assert callable(resolve(info.target))
    for name in EXTRACTORS:
        assert callable(resolve(EXTRACTORS.get(name).target))


def brightness(evidence: Evidence) -> Judgement:
    """A third party's metric: the difference of the mean features."""
    return Judgement(
        {"brightness": float((evidence.samples.moments.mean - evidence.reference.moments.mean).mean())}
    )


def greedy(evidence: Evidence) -> Judgement:
    """Reads what it did not declare."""
    return Judgement({"greedy": float(evidence.samples.features.mean())})


BRIGHTNESS = MetricInfo(
    "brightness", "mean difference", f"{__name__}:brightness", frozenset({"moments"}), {"brightness": None}
)
GREEDY = MetricInfo("greedy", "undeclared", f"{__name__}:greedy", frozenset({"moments"}), {"greedy": None})


def test_a_plug_in_is_one_function_and_one_entry_point(
    train: ImageArray, test: ImageArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [EntryPoint(n.lower(), f"{__name__}:{n}", "gentool.metrics") for n in ("BRIGHTNESS", "GREEDY")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    monkeypatch.setattr(METRICS, "_group", "gentool.metrics")
    monkeypatch.setattr(METRICS, "_targets", dict(METRICS._targets))
    assert abs(evaluate(test, train, ["brightness"], "pixels").metrics["brightness"]) < 0.05
    with pytest.raises(LookupError, match="must name them in its `needs`"):
        evaluate(test, train, ["greedy"], "pixels")


def test_listing_metrics_costs_no_torch() -> None:
    code = (
        "import sys; from gentool.metrics.catalog import METRICS, plan; "
        "plan(['fid', 'downstream'], 'classifier'); plan(['cloud-cd'], 'clouds'); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_data_set_of_the_project_is_a_set_of_images() -> None:
    data = open_set(make_config("digits", {}), "test")
    images = ImageSet(data, "digits")
    x = torch.cat([x for x, _ in images])
    assert images.shape == (1, 8, 8)
    assert images.classes == 10
    assert len(x) == len(images)
    assert torch.equal(x[3], data[3][0])
    assert images.fingerprint == data.fingerprint


def test_progress_is_told_of_every_set(train: ImageArray, test: ImageArray) -> None:
    told: list[tuple[str, int, int]] = []
    evaluate(test, train, ["fid"], "pixels", progress=lambda *step: told.append(step))
    assert told[-1] == ("digits train", 900, 900)
    assert ("digits test", 256, 897) in told


def test_the_documentation_names_every_metric_and_figure() -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    for info in map(METRICS.get, METRICS):
        assert f"### {info.name}\n" in text
        assert all(f"`{value}`" in text for value in info.values)
    assert all(f"**{name}.**" in text or f"| `{name}` |" in text for name in EXTRACTORS)
