"""Differentially private diffusion (DPDM, arXiv 2210.09929): the shared denoiser, with nothing measured on the data."""

from __future__ import annotations

from dataclasses import replace

from gentool.data import DataSpec
from gentool.errors import UserError
from gentool.families.dpdm.config import DpdmRecipe
from gentool.training.denoising import DenoisingModule

CLASSES = "model.classes"


class DpdmModule(DenoisingModule):
    """Noise multiplicity is the loss's own average over K draws, before the private step clips (algorithm 1).

    A label is dropped once a record, for all its draws together.
    """

    recipe: DpdmRecipe

    def __init__(self, recipe: DpdmRecipe, spec: DataSpec) -> None:
        super().__init__(recipe, public_classes(recipe, spec))


def public_classes(recipe: DpdmRecipe, spec: DataSpec) -> DataSpec:
    """The data's description with the number of classes that is public, whatever labels occur in the records.

    Raises:
        UserError: no one but the data says how many there are, or the data contradict what is said.
    """
    stated, data = recipe.model.classes, recipe.data
    if not recipe.model.conditional:
        if stated is not None:
            raise UserError(
                "a model without labels has no use for it: take it out, or add conditional: true", CLASSES
            )
        return spec
    expected = data.expected_spec()
    published = 0 if expected is None else expected.classes
    if published and stated not in (None, published):
        raise UserError(f"the data set {data.name} has {published} classes, not {stated}", CLASSES)
    if published or spec.classes == 0:
        return spec
    if stated is None:
        raise UserError(
            f"state how many classes there are: the largest label of the data set {data.name} is private",
            CLASSES,
        )
    if spec.classes > stated:
        raise UserError(
            f"the data have labels up to {spec.classes - 1}, but only {stated} classes are stated", CLASSES
        )
    names = (*spec.class_names, *map(str, range(spec.classes, stated)))
    return replace(spec, classes=stated, class_names=names)
