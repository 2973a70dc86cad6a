"""Recipe of LACE: classifiers of attributes on the latents of a frozen generator."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gentool.families.base import Family
from gentool.families.lace.formula import WORDS
from gentool.metrics.strokes_catalog import Measure
from gentool.recipes.schema import Fraction, Misfit, NamedRun, Positive, Recipe, Strict


class FromClassifier(Strict):
    source: Literal["classifier"] = "classifier"
    """A classifier reads the generator's pictures."""
    run: Annotated[str, Field(min_length=1)]
    """Run folder of the family classifier (the labeller), of which the run keeps a copy; a recipe in its place can be
    dry-run, not trained with."""
    classes: tuple[str, ...] | None = None
    """Names of its classes; absent: those of this recipe's data."""
    min_confidence: Fraction = 0.0
    """A picture whose best class has less than this probability has no label."""


class FromMeasure(Strict):
    source: Literal["measure"]
    """A measure of the picture itself, scaled by its 1st and 99th percentiles over the training data."""
    measure: Measure
    """What is measured."""
    above: Fraction | None = None
    """Two classes, at most and above this, in place of the number."""


class FromTable(Strict):
    source: Literal["table"]
    """Labels of samples of the generator, by people or another program."""
    path: Annotated[str, Field(min_length=1)]
    """CSV with a column `index`: the sample's number among those of `gentool sample BASE --seed SEED`."""
    column: str | None = None
    """The attribute's column; absent: its own name. Empty, None and -1 are missing."""
    classes: tuple[str, ...] | None = None
    """Names of the classes, which the column holds (or their numbers); absent: it holds numbers."""


AttributeConfig = Annotated[FromClassifier | FromMeasure | FromTable, Field(discriminator="source")]


class LaceModel(Strict):
    attributes: dict[str, AttributeConfig] = Field(min_length=1)
    """What is to be controlled, by the names that formulas use."""
    latents: Positive = 20_000
    """Latents that are drawn, made into pictures and labelled."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Latent i is that of sample i of this seed."""
    truncation: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the generator, for labelling; control had better use the same."""
    space: Literal["w", "z"] = "w"
    """What the classifiers read: the generator's intermediate latent, or z."""
    depth: Annotated[int, Field(ge=2)] = 4
    """Layers, that of the heads included; their widths fall evenly from the latent's to `width`."""
    width: Positive = 128
    """What the heads read."""
    exclude: str | None = None
    """Leave out latents for which this formula is true: to see what a combination does that was never learnt."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name in self.attributes:
            if not name.replace("_", "a").replace("-", "a").isalnum() or name[0].isdigit() or name in WORDS:
                raise Misfit(
                    f"attributes.{name}", "expected a name that formulas can use: letters, digits, _ and -"
                )
        return self


class LaceRecipe(Recipe):
    base: Annotated[str, Field(min_length=1)]
    """Run folder of the generator; a recipe in its place can be dry-run, not trained from."""
    model: LaceModel
    """The attributes and their network."""

    @property
    def teachers(self) -> tuple[NamedRun, ...]:
        """The labellers, in `labeller-NAME`; one that labels several attributes under the first of them."""
        found: dict[str, NamedRun] = {}
        for name, config in self.model.attributes.items():
            if isinstance(config, FromClassifier) and config.run not in found:
                found[config.run] = NamedRun(f"model.attributes.{name}.run", config.run, f"labeller-{name}")
        return tuple(found.values())

    @model_validator(mode="after")
    def _nothing_private(self) -> Self:
        if self.privacy is not None:
            raise Misfit(
                "privacy",
                "the classifiers learn from the generator's own samples: make the generator private",
            )
        return self


FAMILY = Family(
    name="lace",
    summary="control of a frozen generator: classifiers of attributes on its latents, and formulas over them",
    paper="Nie, Vahdat and Anandkumar 2021, Controllable and Compositional Generation with Latent-Space Energy-Based "
    "Models (2110.10873)",
    recipe=LaceRecipe,
    module="gentool.families.lace.module:LaceModule",
    distils=True,
    draws_samples=False,
)
