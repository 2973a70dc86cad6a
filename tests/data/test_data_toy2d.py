"""Property: the set is drawn from the mixture that its options say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from gentool import data
from gentool.data.mixture import Mixture
from gentool.data.sets.toy2d import Toy2dConfig
from gentool.errors import UserError

UNEVEN = Mixture(
    np.array([[0.0, 0.0], [1.0, -0.5], [-1, 1]]), np.array([0.1, 0.3, 0.2]), np.array([0.5, 0.2, 0.3])
)


def test_layouts_have_their_components() -> None:
    ring, grid = Toy2dConfig().mixture(), Toy2dConfig(layout="grid").mixture()
    assert (len(ring.means), len(grid.means)) == (8, 25)
    np.testing.assert_allclose(np.hypot(*ring.means.T), 1)
    neighbours = np.diff(np.unique(grid.means[:, 0].round(12)))
    np.testing.assert_allclose(neighbours, 0.5)


def test_samples_have_the_moments_of_their_component() -> None:
    x, labels = UNEVEN.sample(60_000, key=1)
    assert (x.dtype, labels.dtype) == (np.float32, np.int64)
    np.testing.assert_allclose(np.bincount(labels) / 60_000, UNEVEN.weights, atol=0.01)
    for k in range(3):
        part = (x[labels == k] - UNEVEN.means[k]) / UNEVEN.stds[k]
        assert stats.kstest(part.ravel(), "norm").pvalue > 1e-3


def test_the_set_is_drawn_from_the_mixture_the_same_each_time() -> None:
    config = data.make_config("toy2d", {"count": 5000})
    train, test = (data.open_set(config, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (5000, 1000)
    assert train.spec.kind == "vector"
    assert train.spec.shape == (2,)
    assert train.spec.classes == 8
    assert torch.equal(train.take(range(9)).x, data.open_set(config, "train").take(range(9)).x)
    assert train.fingerprint != test.fingerprint
    distance = np.hypot(*(train.take(range(5000)).x.numpy() - config.mixture().means[train.labels]).T)
    assert distance.max() < 0.05 * 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layout": "own"}, "go together"),
        ({"means": [[0.0, 0.0]]}, "go together"),
        ({"layout": "own", "means": []}, "empty"),
        ({"std": [0.1, 0.2]}, "2 entries for 8 components"),
        ({"weights": [1.0]}, "1 entries for 8"),
        ({"std": 0.0}, "greater than 0"),
        ({"weights": [1.0] * 7 + [-1.0]}, "greater than 0"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        data.make_config("toy2d", options)


def test_own_components(tmp_path: object) -> None:
    config = data.make_config(
        "toy2d",
        {"layout": "own", "means": [[0.0, 0.0], [3.0, 0.0]], "std": [0.1, 0.2], "weights": [3.0, 1.0]},
    )
    assert isinstance(config, Toy2dConfig)
    np.testing.assert_allclose(config.mixture().weights, [0.75, 0.25])
    train = data.open_set(config, "train")
    assert np.mean(train.labels == 0) == pytest.approx(0.75, abs=0.02)
