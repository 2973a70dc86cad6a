"""Recipe block of the vision transformer. No torch here: validating a recipe is instant."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gentool.networks.config import Dropout
from gentool.recipes.schema import Positive, Strict


class ViT(Strict):
    """Vision transformer (Dosovitskiy et al. 2021); the defaults are DeiT-T's (Touvron et al. 2021)."""

    name: Literal["vit"] = "vit"
    """Vision transformer."""
    patch: Positive = 16
    """Side of a patch, in pixels."""
    width: Positive = 192
    """Width of a token."""
    depth: Positive = 12
    """Transformer blocks."""
    heads: Positive = 3
    """Attention heads; must divide `width`."""
    mlp_ratio: Positive = 4
    """Hidden width of a block's MLP over `width`."""
    drop_path: Dropout = 0.1
    """Chance that the last block's branches are left out for a picture; it grows from 0 over the blocks."""
    registers: Annotated[int, Field(ge=0)] = 0
    """Further learned tokens that stand for no patch."""
    distilled: bool = False
    """A distillation token beside the class token, with logits of its own (Touvron et al. 2021, section 4): what is
    said is the mean of both."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        return self
