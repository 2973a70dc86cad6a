"""Real images for the judges: scikit-learn's digits, 8 x 8, in two halves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from gentool.metrics.images import ImageArray


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 (1797, 8, 8, 1) and labels, shuffled once."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = np.round(data.images * 255 / 16).astype(np.uint8)[..., None]
    return images[order], data.target[order]


@pytest.fixture(scope="session")
def train(digits: tuple[np.ndarray, np.ndarray]) -> ImageArray:
    return ImageArray(digits[0][:900], digits[1][:900], name="digits train")


@pytest.fixture(scope="session")
def test(digits: tuple[np.ndarray, np.ndarray]) -> ImageArray:
    return ImageArray(digits[0][900:], digits[1][900:], name="digits test")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the session, so that the classifier of `train` is trained once."""
    return tmp_path_factory.mktemp("metrics-cache")


@pytest.fixture
def normal() -> Callable[..., torch.Tensor]:
    """Seeded standard normal float64 tensors."""

    def draw(*shape: int, seed: int = 0) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return draw
