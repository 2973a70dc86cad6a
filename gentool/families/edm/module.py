"""The base diffusion family: one denoiser, trained on its weighted squared error (EDM, arXiv 2206.00364, eq. 2-8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gentool import networks
from gentool.data import to_model
from gentool.data.order import Batch
from gentool.data.spec import DataSpec
from gentool.diffusion.denoiser import Denoiser
from gentool.diffusion.draw import draw_from_denoiser
from gentool.diffusion.loss import DiffusionLoss
from gentool.families.edm.config import EdmRecipe
from gentool.networks.attention import SelfAttention
from gentool.networks.augment import Augment
from gentool.training.module import GenModule
from gentool.training.sampling import Drawn, SampleRequest


class EdmModule(GenModule):
    recipe: EdmRecipe
    model: Denoiser

    def __init__(self, recipe: EdmRecipe, spec: DataSpec) -> None:
        super().__init__(recipe, spec)
