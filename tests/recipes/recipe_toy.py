"""A family with every construct a recipe's schema may use, and a recipe of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gentool.errors import UserError, did_you_mean
from gentool.recipes.schema import Optimizer, Positive, Recipe, Strict


class Digits(Strict):
    name: Literal["digits"]
    batch_size: Positive = 64
    """Examples per step."""


class Folder(Strict):
    name: Literal["images", "folder"]
    path: str
    """Where the pictures are."""
    size: Annotated[int, Field(ge=8, le=1024, multiple_of=8)] = 32


class Unet(Strict):
    name: Literal["unet"]
    width: Positive = 64
    mult: tuple[Positive, ...] = (1, 2)


class Mlp(Strict):
    name: Literal["mlp"]
    hidden: Annotated[tuple[Positive, ...], Field(min_length=1)] = (128,)


Network = Annotated[Unet | Mlp, Field(discriminator="name")]


class Model(Strict):
    network: Network = Unet(name="unet", width=32)
    sigma_min: Annotated[float, Field(gt=0)] = 0.002
    sigma_max: float = 80.0
    teacher: Unet | Literal["none"] = "none"
    critic: Network | None = None
    heads: tuple[Mlp, ...] = ()

    @model_validator(mode="after")
    def _ordered(self) -> Model:
        if self.sigma_min >= self.sigma_max:
            raise ValueError("sigma_min must be below sigma_max")
        return self


class ToyRecipe(Recipe):
    data: Annotated[Digits | Folder, Field(discriminator="name")]
    model: Model = Model()
    optimizer: Optimizer = Optimizer(lr=2e-4, betas=(0.9, 0.99))


def schema_of(name: str) -> type[Recipe]:
    if name != "toy":
        raise UserError(f"unknown family {name!r}{did_you_mean(name, ['toy'])} (there are: toy)")
    return ToyRecipe


RECIPE = """\
# yaml-language-server: $schema=gentool.schema.json
family: toy
description: a toy on digits
data: {name: digits, batch_size: 8}
model:
  network:
    name: unet
    width: 16
    mult: [1, 2, 2]
  sigma_min: 1e-3
trainer: {max_steps: 20, clip_norm: 1}
optimizer:
  warmup: 5
sample:
  guidance: {cfg: {scale: 2.0}}
  options: {eta: 0.5}
"""
