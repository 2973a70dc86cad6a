"""What families share that read the class of pictures."""

from __future__ import annotations

from gentool.data import DataSpec
from gentool.errors import UserError
from gentool.recipes.schema import Recipe
from gentool.training.module import GenModule
from gentool.training.sampling import Guide


class ClassifyingModule(GenModule):
    """A classifier of pictures: it draws none, and takes as many classes as its data have."""

    draws_samples = False

    def __init__(self, recipe: Recipe, spec: DataSpec) -> None:
        super().__init__(recipe, spec)
        if spec.kind != "image":
            raise UserError(
                f"the {recipe.family} family reads images; {recipe.data.name} is {spec.kind} data"
            )
        if spec.classes == 0:
            raise UserError(f"the data set {recipe.data.name} has no labels to learn")
        self.classes = spec.classes

    def guide(self) -> Guide:
        raise UserError(
            "--classifier: it was trained on clean pictures, and guidance asks it about noisy ones; train a classifier "
            "with model.noise (recipe classifier/digits-noisy-small)"
        )
