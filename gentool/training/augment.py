"""Moves of training pictures that keep what they show; the caller draws how far."""

from __future__ import annotations

import torch
from torch import Tensor


def shifted(x: Tensor, by: Tensor) -> Tensor:
    """Pictures (B, C, H, W) moved by (B, 2) whole pixels down and right, their borders repeated."""
    rows = (torch.arange(x.shape[2], device=x.device) - by[:, :1]).clamp(0, x.shape[2] - 1)
    columns = (torch.arange(x.shape[3], device=x.device) - by[:, 1:]).clamp(0, x.shape[3] - 1)
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    return x[batch, :, rows[:, :, None], columns[:, None, :]].movedim(3, 1)
