"""Perturbed-attention guidance: away from the network that cannot look around.

Source: Ahn et al. 2024 (arXiv:2403.17377), D + s (D - D_perturbed) with s = w - 1. The perturbed network has
the map of its self-attention replaced by the identity (every place attends to itself alone); labels stay, so
no null label is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gentool.diffusion.guidance.compose import Predictions, Wanted


@dataclass(frozen=True)
class Perturbed:
    """D_perturbed + w (D - D_perturbed); the predictor's variant `"perturbed"` gives D_perturbed."""

    scale: float

    def wants(self, sigma: Tensor, memory: Any) -> Wanted:
        return Wanted() if self.scale == 1 else Wanted(labelled=True, perturbed=True)

    def correct(self, at: Predictions, memory: Any) -> tuple[Tensor, None]:
        if at.perturbed is None or self.scale == 1:
            return torch.zeros_like(at.labelled), None
        return (self.scale - 1) * (at.labelled - at.perturbed), None
