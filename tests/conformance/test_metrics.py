"""What every metric of the catalogue must keep, on real digits: better for real images than for noise.

Metrics of clouds are asked the same of clouds drawn from those digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.datasets import load_digits

from gentool.errors import UserError
from gentool.metrics.catalog import EXTRACTORS, METRICS, MetricInfo
from gentool.metrics.evaluate import evaluate
from gentool.metrics.images import ImageArray, Images, VectorArray

Judge = Callable[..., dict[str, float]]
EYES = ("pixels", "classifier", "clouds")
"""Extractors that need no file of weights."""
QUICK = {"downstream": {"epochs": 8}, "cloud-emd-approx": {"points": 16}, "cloud-emd-exact": {"points": 16}}
"""Options that make a metric quick enough for the tests."""


def digits(first: int, last: int) -> ImageArray:
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))[first:last]
    images = np.round(data.images[order] * 255 / 16).astype(np.uint8)[..., None]
    return ImageArray(images, data.target[order], name=f"digits {first}")


def noise(count: int) -> ImageArray:
    rng = np.random.default_rng(1)
    return ImageArray(
        rng.integers(0, 256, (count, 8, 8, 1), np.uint8), rng.integers(0, 10, count), name="noise"
    )


def clouds(pictures: ImageArray) -> VectorArray:
    """48 clouds of 32 points, each drawn from a picture by its pixels."""
    rng, found = np.random.default_rng(2), []
    for picture in pictures._images[:48, ..., 0].astype(float):
        pixel = rng.choice(picture.size, 32, p=picture.ravel() / picture.sum())
        place = np.stack([pixel % 8, pixel // 8, np.zeros(32)], 1) + rng.random((32, 3))
        found.append(place / 16 - 0.25)
    labels = None if pictures._labels is None else pictures._labels[:48]
    return VectorArray(np.array(found, np.float32), labels, name=pictures.name)


def material(info: MetricInfo, pictures: ImageArray) -> Images:
    """What the metric judges, made of these pictures."""
    return clouds(pictures) if "clouds" in info.needs else pictures


def eyes_of(info: MetricInfo) -> str:
    """The cheapest extractor that gives what the metric reads."""
    return next(n for n in EYES if info.needs - {"labels", "held-out"} <= EXTRACTORS.get(n).gives)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """The figures of one metric for some samples; the reference's classifier is trained once."""
    cache = tmp_path_factory.mktemp("cache")
    reference, unseen = digits(0, 600), digits(1200, 1797)

    known: dict[tuple[str, str], dict[str, float]] = {}

    def figures(name: str, samples: ImageArray, anew: bool = False) -> dict[str, float]:
        key = (name, samples.name)
        if anew or key not in known:
            info = METRICS.get(name)
            eyes, ours, theirs, new = (
                eyes_of(info),
                *(material(info, s) for s in (samples, reference, unseen)),
            )
            options = {name: QUICK[name]} if name in QUICK else {}
            known[key] = evaluate(
                ours, theirs, [name], eyes, options=options, held_out=new, cache=cache
            ).metrics
        return known[key]

    return figures


@pytest.mark.parametrize("name", METRICS.names())
def test_figures_are_those_of_the_catalogue_and_finite(name: str, judge: Judge) -> None:
    found = judge(name, digits(600, 1200))
    assert list(found) == list(METRICS.get(name).values)
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "cas" else n for n in METRICS.names()]
)
def test_figures_are_repeatable(name: str, judge: Judge) -> None:
    first = judge(name, digits(600, 1200))
    assert judge(name, digits(600, 1200), anew=True) == first


@pytest.mark.parametrize("name", METRICS.names())
def test_noise_is_never_better_than_real_images_and_somewhere_worse(name: str, judge: Judge) -> None:
    info = METRICS.get(name)
    real, bad = judge(name, digits(600, 1200)), judge(name, noise(600))
    worse = []
    for figure, higher in info.values.items():
        if higher is None:
            worse.append(abs(bad[figure] - real[figure]) > 1e-3)
            continue
        gain = (real[figure] - bad[figure]) * (1 if higher else -1)
        if {"held-out", "features"} <= info.needs and not higher:  # noise copies nothing
            continue
        assert gain >= 0, figure
        worse.append(gain > 1e-3)
    assert any(worse)


@pytest.mark.parametrize("name", [n for n in METRICS.names() if "held-out" not in METRICS.get(n).needs])
def test_the_reference_itself_is_at_least_as_good_as_other_real_images(name: str, judge: Judge) -> None:
    same, real = judge(name, digits(0, 600)), judge(name, digits(600, 1200))
    for figure, higher in METRICS.get(name).values.items():
        if higher is not None:
            slack = 0.05 * abs(real[figure])  # of figures that do not compare image by image
            assert (same[figure] - real[figure]) * (1 if higher else -1) >= -slack, figure


@pytest.mark.parametrize("name", METRICS.names())
def test_labels_and_held_out_images_are_asked_for_by_name(name: str) -> None:
    info, bare = METRICS.get(name), ImageArray(noise(40)._images, name="bare")
    reference = digits(0, 600)
    if "labels" in info.needs:
        with pytest.raises(UserError, match=f"{name} needs"):
            evaluate(bare, reference, [name], eyes_of(info), held_out=digits(600, 700))
    if "held-out" in info.needs:
        with pytest.raises(UserError, match=f"{name} needs held-out"):
            evaluate(material(info, digits(600, 700)), material(info, reference), [name], eyes_of(info))
