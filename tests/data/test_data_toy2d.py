"""Property: the mixture's samples, density and denoiser are those of one distribution."""

from __future__ import annotations

import math

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


def test_the_density_integrates_to_one_and_agrees_with_scipy() -> None:
    axis = np.linspace(-4, 4, 801)
    plane = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    for sigma in (0.0, 0.5):
        density = np.exp(UNEVEN.log_density(plane, sigma))
        assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-7)  # the tails beyond 4
        want = sum(
            w * stats.multivariate_normal(m, (s**2 + sigma**2) * np.eye(2)).pdf(plane)
            for w, m, s in zip(UNEVEN.weights, UNEVEN.means, UNEVEN.stds)
        )
        np.testing.assert_allclose(density, want, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("sigma", [0.02, 0.3, 2.0, 80.0])
def test_the_denoiser_is_tweedies(sigma: float) -> None:
    """D(x; sigma) = x + sigma^2 grad ln p(x; sigma), the gradient by central differences."""
    x, step = (
        np.random.default_rng(0).normal(size=(50, 2)) * math.hypot(sigma, 1),
        1e-5 * math.hypot(sigma, 0.1),
    )
    gradient = np.stack(
        [
            (UNEVEN.log_density(x + step * e, sigma) - UNEVEN.log_density(x - step * e, sigma)) / (2 * step)
            for e in np.eye(2)
        ],
        -1,
    )
    np.testing.assert_allclose(UNEVEN.denoise(x, sigma), x + sigma**2 * gradient, atol=2e-5 * max(1, sigma))


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
