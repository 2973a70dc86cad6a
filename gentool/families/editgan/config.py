"""Recipe of EditGAN: label heads on a frozen generator's features, and an encoder to its latents."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gentool.families.base import Family
from gentool.recipes.schema import Fraction, Misfit, NamedRun, Optimizer, Positive, Recipe, Strict

NotNegative = Annotated[float, Field(ge=0)]
Stop = Literal["paper", "val"]
STROKES = ("outside", "stroke", "hole")
"""The classes of `labels: {source: strokes}`."""


class FromStrokes(Strict):
    source: Literal["strokes"] = "strokes"
    """The picture itself tells: bright is stroke, dark that the border does not reach is hole, the rest outside."""
    threshold: Annotated[float, Field(gt=-1, lt=1)] = 0.0
    """Brightness in [-1, 1] above which a pixel is stroke."""
    of: Literal["samples", "photos"] = "samples"
    """What is labelled: samples of the generator, or the data's pictures as encoder and generator render them. An edit
    of a photo starts from codes that differ from layer to layer, which heads that saw samples alone often misread."""


class FromMasks(Strict):
    source: Literal["masks"]
    """Masks that people painted over samples of the generator, or over photos as it renders them."""
    path: Annotated[str, Field(min_length=1)]
    """Folder of pictures (PNG) named by the number of the sample of `gentool sample BASE --seed SEED`: 7.png, 00007.png
    and sample-7.png are sample 7; a mask with a photo's codes beside it (photo.png, photo.safetensors: `gentool edit
    RUN photo.png --save-codes DIR`) is of that photo. A pixel's value is its class."""
    classes: tuple[str, ...] = Field(min_length=2)
    """Names of the classes; the first is the background."""


Labels = Annotated[FromStrokes | FromMasks, Field(discriminator="source")]


class EncoderConfig(Strict):
    channels: Positive = 64
    """Feature maps at full resolution, doubled at every halving."""
    most: Positive = 256
    """The most feature maps."""
    samples: Positive = 8
    """Samples of the generator in a step, whose latents are known; the real pictures are the data's batch."""
    latent_weight: NotNegative = 5.0
    """Weight of the squared error in w, on samples."""
    perceptual_weight: NotNegative = 10.0
    """Weight of the perceptual distance of the picture, where `perceptual` names a classifier."""
    pixel_weight: NotNegative = 1.0
    """Weight of the squared error of the picture, in units of [0, 1]."""
    real_from: Fraction = 0.05
    """Share of the steps after which real pictures count too."""


class EditganModel(Strict):
    labels: Labels = FromStrokes()
    """Where the heads' label maps come from."""
    labelled: Positive = 16
    """Pictures that are labelled, with `strokes`; with `masks` the folder says."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Sample i is that of this seed."""
    truncation: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the generator, for the samples that are labelled and encoded."""
    heads: Annotated[int, Field(ge=2)] = 10
    """Classifiers of the ensemble; their disagreement is the uncertainty."""
    hidden: tuple[Positive, Positive] | None = None
    """Widths of a head; null: 128, 32, and from 32 classes on 256, 128."""
    pixels: Annotated[int, Field(ge=2)] = 64
    """Pixels a head sees in a step, of all classes alike and of its own choice."""
    fewest: Annotated[int, Field(ge=0)] = 30
    """A class with fewer pixels in a picture is background there."""
    stop: Stop | None = None
    """When a head stops learning. paper: once no batch's loss was a new minimum for 50 steps, after four passes over
    the labelled pixels and within a hundred. val: once an eighth of the pixels, held out, are not read better for 250
    steps; the head at its best is kept. null: with the training. The encoder learns on."""
    encoder: EncoderConfig = EncoderConfig()
    """From a picture to its latents."""
    perceptual: str | None = None
    """Run folder of the family classifier (a resnet) whose features compare pictures, of which the run keeps a copy;
    null: pixels alone."""


class EditganRecipe(Recipe):
    base: Annotated[str, Field(min_length=1)]
    """Run folder of the generator (stylegan2); a recipe in its place can be dry-run, not trained from."""
    model: EditganModel = EditganModel()
    """The labels, the heads and the encoder."""
    optimizer: Optimizer = Optimizer(name="adam", lr=1e-3)
    """The heads' optimiser."""
    encoder_optimizer: Optimizer = Optimizer(name="adam", lr=1e-3)
    """The encoder's."""

    @property
    def teachers(self) -> tuple[NamedRun, ...]:
        named = self.model.perceptual
        return () if named is None else (NamedRun("model.perceptual", named, "perceptual"),)

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        if self.privacy is not None:
            raise Misfit("privacy", "heads and encoder learn from the generator: make the generator private")
        if self.trainer.accumulate != 1:
            raise Misfit("trainer.accumulate", "heads and encoder step by themselves: raise data.batch_size")
        if self.trainer.precision == "16-mixed":
            raise Misfit("trainer.precision", "two optimisers share no gradient scaler; use bf16-mixed")
        if self.trainer.strategy == "fsdp":
            raise Misfit("trainer.strategy", "the networks are small; use ddp")
        if self.trainer.compile:
            raise Misfit("trainer.compile", "nothing here is compiled; leave it out")
        return self


FAMILY = Family(
    name="editgan",
    summary="edits by repainting a label map: label heads on a frozen generator's features, and an encoder",
    paper="Ling et al. 2021, EditGAN: High-Precision Semantic Image Editing (2111.03186)",
    recipe=EditganRecipe,
    module="gentool.families.editgan.module:EditganModule",
    distils=True,
    draws_samples=False,
)
