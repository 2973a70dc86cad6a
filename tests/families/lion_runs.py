"""The smallest recipes of the family lion, on made clouds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

UNET = (
    "{down: [{channels: 8, resolution: 4, centres: 8, radius: 0.7, neighbours: 8, widths: [8]}, "
    "{centres: 4, radius: 1.4, neighbours: 4, widths: [8]}], "
    "up: [{widths: [8], channels: 8, blocks: 1, resolution: 2}, {widths: [8], channels: 8, blocks: 1, resolution: 4}], "
    "head: 8}"
)
ENCODER = "{down: [{channels: 8, resolution: 4, attention: true, centres: 4, radius: 1.0, neighbours: 8, widths: [8]}]}"


def model(steps: int = 4, more: str = "") -> str:
    """A `model:` block of networks with a few thousand weights."""
    return (
        f"{{style: 8, condition: 8, vae: {{steps: {steps}, style_encoder: {ENCODER}, encoder: {UNET}, "
        f"decoder: {UNET}}}, "
        f"style_prior: {{width: 16, blocks: 1, embedding: 8}}, point_prior: {{network: {UNET}, time: 8}}{more}}}"
    )


def spheres(path: Path, count: int = 40, points: int = 24, seed: int = 0) -> Path:
    """An .npz of spheres (label 0) and cubes (label 1) of unit variance."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, points, 3))
    labels = np.arange(count) % 2
    sphere = np.sqrt(3) * x / np.linalg.norm(x, axis=2, keepdims=True)
    cube = np.sqrt(1.8) * x / np.abs(x).max(axis=2, keepdims=True)
    x = np.where(labels[:, None, None] == 0, sphere, cube) * random.uniform(0.8, 1.2, (count, 1, 1))
    np.savez(path, arr_0=x.astype(np.float32), arr_1=labels)
    return path


def recipe(data: Path, more: str = "", steps: int = 4, max_steps: int = 8) -> str:
    """The text of a recipe on that file."""
    return (
        f"family: lion\ndata: {{name: npz, path: {data}, batch_size: 8}}\nmodel: {model(steps, more)}\n"
        f"trainer: {{max_steps: {max_steps}, log_every: 2, checkpoint_every: 4}}\n"
        "sample: {steps: 3, count: 4}\n"
    )
