"""Small roots in the layout of the real data sets."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from data_files import CIFAR, MNIST_X, MNIST_Y, idx


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A root with a small MNIST, train gzipped, test plain."""
    home = tmp_path / "root" / "mnist"
    home.mkdir(parents=True)
    (home / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(MNIST_X)))
    (home / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(MNIST_Y)))
    (home / "t10k-images-idx3-ubyte").write_bytes(idx(MNIST_X[:10]))
    (home / "t10k-labels-idx1-ubyte").write_bytes(idx(MNIST_Y[:10]))
    return tmp_path / "root"


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """A root with a small binary CIFAR-10."""
    home = tmp_path / "root" / "cifar10"
    home.mkdir(parents=True)
    for i in range(1, 6):
        (home / f"data_batch_{i}.bin").write_bytes(CIFAR[2 * i - 2 : 2 * i].tobytes())
    (home / "test_batch.bin").write_bytes(CIFAR[10:].tobytes())
    return tmp_path / "root"
