"""Recipe of StyleGAN2 with adaptive discriminator augmentation."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gentool.families.base import Family
from gentool.networks.stylegan2_config import Pipe, StyleDiscriminator, StyleGenerator
from gentool.recipes.schema import Fraction, Misfit, Optimizer, Positive, Sample, Strict
from gentool.training.adversarial_config import AdversarialRecipe
from gentool.training.one_shot import ignored

NotNegative = Annotated[float, Field(ge=0)]

OWN_SAMPLING = frozenset({"truncation", "cutoff", "noise"})
"""Keys of the `sample:` block that are this family's own."""


class PathLength(Strict):
    weight: NotNegative = 2.0
    """Weight of (length - mean)^2, length that of the picture's random projection's gradient in w; 0: off."""
    every: Positive = 4
    """Steps from one penalty to the next, which then counts so many times; also rescales the optimiser, even at
    weight 0, as in the authors' code."""
    decay: Fraction = 0.01
    """Share of a batch in the running mean of lengths."""
    shrink: Positive = 2
    """Take the batch's size over this."""


class R1(Strict):
    gamma: NotNegative = 1.0
    """Weight: gamma/2 times the squared norm of the discriminator's gradient at real pictures; 0: off."""
    every: Positive = 16
    """Steps from one penalty to the next, which then counts so many times; also rescales the optimiser."""


class Augment(Strict):
    pipe: Pipe = "bgc"
    """Flips, right angles and whole pixels (b), with general geometry (bg), with colour too (bgc)."""
    p: Fraction = 0.0
    """Probability of each operation, to begin with."""
    target: Annotated[float, Field(ge=-1, le=1)] | None = 0.6
    """Mean sign of the logits of real pictures that p is steered to; null: p stays."""
    every: Positive = 4
    """Steps between updates of p."""
    images: Positive = 500_000
    """Pictures after which p could have gone from 0 to 1."""
    most: Fraction = 0.85
    """Upper bound of p while it is steered."""

    @model_validator(mode="after")
    def _within(self) -> Self:
        if self.target is not None and self.p > self.most:
            raise ValueError(f"p ({self.p:g}) must not exceed most ({self.most:g})")
        return self


class Stylegan2Model(Strict):
    network: StyleGenerator = StyleGenerator()
    """The generator."""
    discriminator: StyleDiscriminator = StyleDiscriminator()
    """Its opponent; not needed for sampling."""
    conditional: bool = False
    """Whether both networks see class labels."""
    flip: bool = False
    """Mirror half of the training pictures left to right."""
    mixing: Fraction = 0.9
    """Probability that a batch's pictures take a second latent from a random layer on."""
    path_length: PathLength = PathLength()
    """Penalty that makes equal steps in w change pictures equally."""
    r1: R1 = R1()
    """Gradient penalty of the discriminator."""
    augment: Augment | None = None
    """Augment what the discriminator sees, real and generated; null: do not."""
    weights: str | None = None
    """File of the generator's weights to start from: .safetensors or .pt (never a pickle), under the official names."""
    discriminator_weights: str | None = None
    """The same of the discriminator's."""


class Stylegan2Sample(Sample):
    truncation: float = 1.0
    """psi: w goes to w_avg + psi (w - w_avg); below 1 nearer to the mean picture, 0 is that picture itself."""
    cutoff: Positive | None = None
    """Truncate the w of this many layers, from the coarsest; null: all."""
    noise: Literal["const", "random", "none"] = "const"
    """Noise of the layers: the planes kept with the weights, fresh ones for each sample, or none."""


class Stylegan2Recipe(AdversarialRecipe):
    model: Stylegan2Model = Stylegan2Model()
    """The two networks and what they are trained by."""
    optimizer: Optimizer = Optimizer(name="adam", lr=2.5e-3, betas=(0.0, 0.99))
    """The generator's optimiser; lr and betas of one step in `path_length.every` + 1 are made up for."""
    discriminator_optimizer: Optimizer = Optimizer(name="adam", lr=2.5e-3, betas=(0.0, 0.99))
    """The discriminator's optimiser; lr and betas of one step in `r1.every` + 1 are made up for."""
    sample: Stylegan2Sample = Stylegan2Sample()
    """What `gentool sample RUN` does when nothing is said."""

    @model_validator(mode="after")
    def _samples_in_one_call(self) -> Self:
        if (fault := ignored(self.sample, OWN_SAMPLING)) is not None:
            raise Misfit(f"sample.{fault[0]}", fault[1])
        return self

    @model_validator(mode="after")
    def _compilable(self) -> Self:
        if self.trainer.compile and self.model.path_length.weight > 0:
            raise Misfit(
                "trainer.compile",
                "compiled networks have no second derivatives, which model.path_length takes: set its weight to 0, or "
                "leave compile out",
            )
        return self


FAMILY = Family(
    name="stylegan2",
    summary="style-based GAN: a latent w whose directions edit pictures, one network call a sample",
    paper="Karras et al. 2020, Training Generative Adversarial Networks with Limited Data (StyleGAN2-ADA, 2006.06676)",
    recipe=Stylegan2Recipe,
    module="gentool.families.stylegan2.module:Stylegan2Module",
)
