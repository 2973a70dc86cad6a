"""Small files in the formats of the real data sets."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from PIL import Image

RNG = np.random.default_rng(7)
MNIST_X = RNG.integers(0, 256, (40, 28, 28), np.uint8)
MNIST_Y = (np.arange(40) % 10).astype(np.uint8)
CIFAR = RNG.integers(0, 256, (12, 1 + 3072), np.uint8)
CIFAR[:, 0] = np.arange(12) % 10


def idx(array: np.ndarray) -> bytes:
    """An IDX file of bytes."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (8, 8), seed: int = 0) -> Path:
    """Writes a picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    depth = len(mode) if mode in ("RGB", "RGBA", "LA", "CMYK") else 1
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], depth), np.uint8)
    Image.fromarray(pixels[..., 0] if depth == 1 else pixels, mode if mode != "P" else "L").convert(
        mode
    ).save(path)
    return path
