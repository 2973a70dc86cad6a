"""Classifiers trained on samples and tested on real digits: the protocol, its seeds, its options."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gentool.errors import RecipeError, UserError
from gentool.metrics import downstream as module
from gentool.metrics.catalog import METRICS, settings
from gentool.metrics.downstream import Part, learn, read, split
from gentool.metrics.evaluate import Evaluation, evaluate
from gentool.metrics.images import ImageArray, gather
from gentool.networks.config import LogReg

Digits = tuple[np.ndarray, np.ndarray]
CPU = torch.device("cpu")


def judged(samples: ImageArray, train: ImageArray, test: ImageArray, **options: object) -> Evaluation:
    return evaluate(
        samples, train, ["downstream"], "pixels", held_out=test, options={"downstream": options}, seed=0
    )


def test_real_digits_teach_and_wrong_labels_do_not(
    digits: Digits, train: ImageArray, test: ImageArray
) -> None:
    found = judged(train, train, test, epochs=20).metrics
    assert list(found) == ["downstream-logreg", "downstream-mlp", "downstream-cnn"]
    assert min(found.values()) > 0.45
    shuffled = np.random.default_rng(0).permutation(digits[1][:900])
    wrong = judged(ImageArray(digits[0][:900], shuffled), train, test, epochs=5).metrics
    assert max(wrong.values()) < 0.3


def test_the_figures_state_how_they_came_about_and_repeat(train: ImageArray, test: ImageArray) -> None:
    first, again = (judged(train, train, test, epochs=4, networks=["mlp"], repeats=2) for _ in "ab")
    assert first == again
    details = first.details["downstream"]
    assert (details["trained_on"], details["validated_on"], details["tested_on"]) == (810, 90, 897)
    runs = details["mlp"]
    assert runs[0] != runs[1]
    assert first.metrics == {"downstream-mlp": pytest.approx(sum(run["accuracy"] for run in runs) / 2)}


def test_the_epoch_is_the_first_of_the_best_on_validation(digits: Digits) -> None:
    """The model that comes back has the accuracy it states, and no shorter training does better."""
    samples, validation = split(ImageArray(*(part[:900] for part in digits)), CPU, 0)
    runs = [learn(LogReg(), samples, validation, 10, epochs, 0) for epochs in range(1, 9)]
    for run in runs:
        right = read(run.model, validation.pixels).argmax(1) == validation.labels
        assert float(right.double().mean()) == run.validation
    seen = [run.validation for run in runs]
    assert seen == sorted(seen)  # more epochs to choose from
    for run in runs:
        assert runs[run.epoch - 1].validation == run.validation
        assert all(earlier.validation < run.validation for earlier in runs[: run.epoch - 1])


def test_validation_takes_part_of_every_class_though_samples_take_them_in_turn() -> None:
    labels = np.arange(1000) % 10
    rest, chosen = split(ImageArray(np.zeros((1000, 8, 8, 1), np.uint8), labels), CPU, 0)
    assert (len(rest.labels), len(chosen.labels)) == (900, 100)
    assert set(chosen.labels.tolist()) == set(range(10))


def test_thinning_a_large_set_keeps_every_class() -> None:
    images = np.arange(1000, dtype=np.int64)[:, None, None, None].astype(np.uint8).repeat(4, 1)
    pixels, labels = gather(ImageArray(images, np.arange(1000) % 10), limit=500)
    assert len(labels) == 500
    assert torch.bincount(labels).min() > 25
    assert torch.equal(pixels, gather(ImageArray(images, np.arange(1000) % 10), limit=500)[0])


def test_colour_and_a_missing_class(digits: Digits) -> None:
    few = digits[1] != 4
    colour = digits[0].repeat(3, 3)
    real = ImageArray(colour[:900], digits[1][:900], name="real")
    unseen = ImageArray(colour[900:1000], digits[1][900:1000], name="unseen")
    samples = ImageArray(colour[:900][few[:900]], digits[1][:900][few[:900]], classes=10)
    done = judged(samples, real, unseen, epochs=1)
    assert done.warnings == ("downstream: no training sample shows class 4",)


def test_too_few_and_unlabelled_samples_are_refused(
    digits: Digits, train: ImageArray, test: ImageArray
) -> None:
    with pytest.raises(UserError, match="has 9 images; downstream needs at least 10"):
        judged(ImageArray(digits[0][:9], digits[1][:9]), train, test)
    with pytest.raises(UserError, match=r"downstream needs the class .* the samples carry no labels"):
        judged(ImageArray(digits[0][:90]), train, test)


def test_nothing_real_is_seen_before_the_choice(
    digits: Digits, train: ImageArray, test: ImageArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classifiers get the samples alone: they are the same whatever the reference and the held-out images are."""
    given: list[Part] = []
    monkeypatch.setattr(module, "learn", lambda *a: (given.append(a[1]), learn(LogReg(), *a[1:]))[1])
    samples = ImageArray(digits[0][:50], digits[1][:50], classes=10)
    for reference in (train, test):
        other = test if reference is train else train
        judged(samples, reference, other, epochs=1, networks=["logreg"])
    assert torch.equal(given[0].pixels, given[1].pixels)
    assert len(given[0].pixels) == 45


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"downstream": {"epoch": 3}}, r"epoch: unknown key; did you mean epochs\?"),
        ({"downstream": {"epochs": 0}}, "epochs: expected an integer above 0, got 0"),
        (
            {"downstream": {"networks": ["cnm"]}},
            r"expected one of logreg, mlp, cnn, got 'cnm'; did you mean cnn\?",
        ),
        ({"downstream": {"networks": []}}, "expected a list"),
        ({"downstream": 3}, "options of downstream: expected"),
        ({"fid": {"k": 1}}, "fid has no options; those that have are downstream"),
        ({"downstreem": {}}, r"unknown metric 'downstreem'; did you mean downstream\?"),
    ],
)
def test_options_are_checked(options: dict[str, object], words: str) -> None:
    with pytest.raises((UserError, RecipeError), match=words):
        settings([METRICS.get("downstream")], options)
