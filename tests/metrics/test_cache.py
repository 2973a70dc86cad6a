"""The cache: right or absent, never wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gentool.metrics.cache import Cache, default_folder
from gentool.metrics.classifier import reference_classifier
from gentool.metrics.evaluate import evaluate
from gentool.metrics.features import Workshop
from gentool.metrics.images import ImageArray

KEY = {"kind": "moments", "data": "a", "count": 2}
TENSORS = {"mean": torch.arange(3.0), "covariance": torch.eye(3, dtype=torch.float64)}


def test_round_trip(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new")
    assert cache.load(KEY) is None
    cache.save(KEY, TENSORS, {"levels": [0, 255]})
    tensors, record = cache.load(KEY) or ({}, {})
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert record == {"levels": [0, 255]}
    assert cache.load(KEY | {"data": "b"}) is None
    assert cache.load(KEY | {"kind": "features"}) is None
    assert len(list((tmp_path / "new").iterdir())) == 1  # no temporary file stays


@pytest.mark.parametrize("damage", ["flip", "cut", "swap"])
def test_a_damaged_or_foreign_file_is_never_used(tmp_path: Path, damage: str) -> None:
    cache = Cache(tmp_path)
    cache.save(KEY, TENSORS, {})
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
    elif damage == "cut":
        data = data[:-9]
    else:
        other = Cache(tmp_path / "other")
        other.save(KEY | {"data": "b"}, TENSORS, {})
        data = bytearray(next((tmp_path / "other").iterdir()).read_bytes())
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="made anew"):
        assert cache.load(KEY) is None


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="nothing is cached"):
        Cache(tmp_path / "file" / "below").save(KEY, TENSORS, {})


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("GENTOOL_CACHE", raising=False)
    assert default_folder() == Path("/x/gentool/metrics")
    monkeypatch.setenv("GENTOOL_CACHE", "/y")
    assert default_folder() == Path("/y/metrics")


class Counted(ImageArray):
    walks = 0

    def __iter__(self):  # type: ignore[no-untyped-def]
        type(self).walks += 1
        return super().__iter__()


def test_a_reference_is_read_once_and_the_figures_stay(
    digits: tuple, test: ImageArray, tmp_path: Path
) -> None:
    reference = Counted(digits[0][:900])
    metrics = ["fid", "kid"]
    first = evaluate(test, reference, metrics, "pixels", cache=tmp_path)
    assert Counted.walks == 1
    assert evaluate(test, reference, metrics, "pixels", cache=tmp_path).metrics == first.metrics
    assert Counted.walks == 1
    changed = digits[0][:900].copy()
    changed[0, 0, 0] += 1
    assert evaluate(test, Counted(changed), metrics, "pixels", cache=tmp_path).metrics != first.metrics
    assert Counted.walks == 2


def test_the_classifier_is_trained_once_and_is_deterministic(
    digits: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cached classifier, and one trained again from nothing, are the same bit for bit."""
    monkeypatch.setattr("gentool.metrics.classifier.MIN_STEPS", 30)
    monkeypatch.setattr("gentool.metrics.classifier.EPOCHS", 1)
    small = ImageArray(digits[0][:200], digits[1][:200])
    device = torch.device("cpu")
    first = reference_classifier(small, Workshop(Cache(tmp_path), device))
    (path,) = tmp_path.iterdir()
    stamp = path.stat().st_mtime_ns
    second = reference_classifier(small, Workshop(Cache(tmp_path), device))
    assert path.stat().st_mtime_ns == stamp
    torch.manual_seed(99)  # the state of the caller's generators must not matter
    third = reference_classifier(small, Workshop(Cache(None), device))
    assert first.identity == second.identity == third.identity
    assert first.note == second.note == third.note  # which states the accuracy
