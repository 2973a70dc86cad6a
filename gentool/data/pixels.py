"""Between stored bytes and the model's range [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor


def to_model(x: Tensor) -> Tensor:
    """uint8 pixels -> float32 x/127.5 - 1 in [-1, 1]; vectors and clouds, float already, pass as they are."""
    return x.float().div_(127.5).sub_(1) if x.dtype == torch.uint8 else x


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] -> uint8 by (x * 127.5 + 128) clamped to [0, 255] and truncated; the inverse of `to_model`."""
    return (x * 127.5 + 128).clamp(0, 255).to(torch.uint8)
