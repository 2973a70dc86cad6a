"""Stacked MNIST: which digits a picture shows, and what its label says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gentool.data import make_config, open_set
from gentool.data.dataset import DataSet, open_whole
from tests.conformance.test_data_sets import idx

COUNT = 30


@pytest.fixture
def stacked(tmp_path: Path) -> DataSet:
    """Of 30 digits, each a plain picture whose gray value is its row and whose label is the row's last figure."""
    home = tmp_path / "mnist"  # plain MNIST's own folder
    home.mkdir()
    rows = np.arange(COUNT, dtype=np.uint8)
    for part in ("train", "t10k"):
        pictures = np.broadcast_to(rows[:, None, None], (COUNT, 28, 28))
        (home / f"{part}-images-idx3-ubyte").write_bytes(idx(pictures))
        (home / f"{part}-labels-idx1-ubyte").write_bytes(idx(rows % 10))
    return open_whole(make_config("stacked-mnist", {"root": str(tmp_path)}), "train")


def test_the_label_reads_red_green_blue(stacked: DataSet) -> None:
    batch = stacked.take(range(len(stacked)))
    digits = batch.x[:, :, 0, 0].long() % 10
    assert (batch.x == batch.x[:, :, :1, :1]).all()  # a channel is one digit
    assert (digits[:, 0] * 100 + digits[:, 1] * 10 + digits[:, 2] == batch.label).all()
    assert stacked.spec.class_names[7] == "007"


def test_each_digit_stands_twice_in_each_channel_in_another_company(stacked: DataSet) -> None:
    assert len(stacked) == 2 * COUNT
    rows = stacked.take(range(len(stacked))).x[:, :, 0, 0]
    for channel in rows.T:
        assert channel.bincount().tolist() == [2] * COUNT
    assert len({tuple(row) for row in rows.tolist()}) == 2 * COUNT
    assert not (rows[:, 0] == rows[:, 1]).all()


def test_pictures_are_padded_as_others_are(stacked: DataSet) -> None:
    root = stacked.source.options.root  # type: ignore[attr-defined]
    padded = open_set(make_config("stacked-mnist", {"root": root, "pad": 32}), "train")
    assert padded.spec.shape == (3, 32, 32)
    x = padded[0][0]
    assert (x[:, :2] == 0).all()
    assert (x[:, 2:30, 2:30] == stacked[0][0]).all()
