"""Recipe of A-ViT: a vision transformer whose tokens halt, and of the plain one it starts from."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gentool.families.base import Family
from gentool.networks.vit_config import ViT
from gentool.recipes.schema import Fraction, Misfit, NamedRun, Positive, Recipe, Strict

PositiveFloat = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
TEACHER_KEY = "model.distillation.teacher"


class Halting(Strict):
    gate_scale: PositiveFloat = 10.0
    """Of a token's first coordinate: its score is sigmoid(gate_scale coordinate - gate_center)."""
    gate_center: float | None = None
    """Absent: measured at the start, so that 95 % of the scores lie under 0.05 and hardly a token halts yet."""
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """A token halts when its scores sum to 1 - epsilon."""
    ponder_weight: Weight = 5.0e-4
    """Of the mean number of blocks a token goes through: more of it, and tokens halt earlier."""
    distribution_weight: Weight = 2.717e-4
    """Of the divergence of the scores' distribution over the blocks from a normal one; the paper's code has 0.001, by a
    sum that is not brought to 1."""
    target_depth: PositiveFloat | None = None
    """Block at which that normal distribution has its mean; absent: three quarters of the depth."""


class Crop(Strict):
    size: Positive
    """Side of what the network reads, in pixels; evaluation takes the middle."""
    scale: tuple[Fraction, Fraction] = (0.08, 1.0)
    """Least and greatest share of a picture's area that is cut out in training, and brought to `size`."""
    ratio: Annotated[float, Field(ge=1)] = 4 / 3
    """Greatest ratio of its sides."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise Misfit("scale", f"expected two shares above 0, the lower first, got {list(self.scale)}")
        return self


class RandAugment(Strict):
    count: Positive = 2
    """Operations a picture, each taken with probability 1/2."""
    magnitude: Annotated[float, Field(ge=0, le=10)] = 9.0
    """Their mean strength, 10 the greatest."""
    std: Weight = 0.5
    """Standard deviation of the strength."""


class Distillation(Strict):
    """A trained classifier is imitated beside the labels (Touvron et al. 2021, section 4)."""

    teacher: Annotated[str, Field(min_length=1)]
    """Run folder of a classifier of the same pictures and classes, of the family classifier or a-vit: the run keeps a
    copy."""
    kind: Literal["hard", "soft"] = "hard"
    """hard: its likeliest class is a second label; soft: its probabilities are the aim."""
    weight: Fraction = 0.5
    """Share of the imitation in the loss; DeiT has 0.5, and for soft 0.1."""
    temperature: PositiveFloat = 3.0
    """Of soft: both sides' logits are divided by it."""


class Augment(Strict):
    flip: bool = False
    """Mirror half of the training pictures left to right."""
    shift: Annotated[int, Field(ge=0)] = 0
    """Move each training picture by up to this many pixels, its border repeated."""
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Brightness, contrast and saturation are multiplied by up to 1 +- this, in random order; DeiT has 0.4 where it
    has no RandAugment."""
    rand: RandAugment | None = None
    """RandAugment (Cubuk et al. 2020)."""
    mixup: Weight = 0.0
    """alpha of mixup (Zhang et al. 2018): a batch is mixed with itself reversed, in parts by a Beta(alpha, alpha)."""
    cutmix: Weight = 0.0
    """alpha of CutMix (Yun et al. 2019), likewise; with both, a batch takes either with probability 1/2."""
    erase: Fraction = 0.0
    """Chance that a rectangle of a picture is filled with noise (Zhong et al. 2020)."""
    repeats: Positive = 1
    """Repeated augmentation (Hoffer et al. 2020): a batch has so many copies of its first pictures, one less of some
    where they do not divide it."""


class AVitModel(Strict):
    network: ViT = ViT()
    """The transformer."""
    halting: Halting | None = Halting()
    """How tokens halt; null: they do not, which is the plain transformer to start from."""
    start: Annotated[str, Field(min_length=1)] | None = None
    """Weights to start from: a run folder of this family, or a .safetensors file of a plain transformer with timm's
    names; null: random ones."""
    distillation: Distillation | None = None
    """Imitate a teacher; by the distillation token where `network.distilled` gives one, else by the class token."""
    crop: Crop | None = None
    """Random crops of larger pictures; null: pictures as they are."""
    augment: Augment = Augment()
    """What training pictures go through."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of each label that is spread evenly over the classes."""

    @model_validator(mode="after")
    def _target_within(self) -> Self:
        depth = self.network.depth
        target = None if self.halting is None else self.halting.target_depth
        if target is not None and not 1 <= target <= depth:
            raise Misfit("halting.target_depth", f"{target:g} is no block of the {depth} of network.depth")
        return self

    @model_validator(mode="after")
    def _taught(self) -> Self:
        if self.network.distilled and self.distillation is None:
            raise Misfit(
                "network.distilled", "a distillation token learns from a teacher: add model.distillation"
            )
        return self


class AVitRecipe(Recipe):
    model: AVitModel = AVitModel()
    """The transformer and how its tokens halt."""

    @property
    def teachers(self) -> tuple[NamedRun, ...]:
        distillation = self.model.distillation
        return () if distillation is None else (NamedRun(TEACHER_KEY, distillation.teacher, "teacher"),)

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        if self.privacy is not None:
            raise Misfit(
                "privacy",
                "private training needs a loss that is a mean over records; here the scores of a whole batch are "
                "compared with their target: take the family classifier",
            )
        return self


FAMILY = Family(
    name="a-vit",
    summary="vision transformers whose tokens halt at depths of their own: image classifiers that adapt their cost",
    paper="Yin et al. 2022, A-ViT: Adaptive Tokens for Efficient Vision Transformer (2112.07658)",
    recipe=AVitRecipe,
    module="gentool.families.a_vit.module:AVitModule",
    draws_samples=False,
)
