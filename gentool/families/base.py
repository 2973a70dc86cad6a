"""What a family tells the rest of gentool about itself."""

from __future__ import annotations

from dataclasses import dataclass

from gentool.recipes.schema import Recipe


@dataclass(frozen=True)
class Family:
    """A model family: one paper's models and how to train them.

    Attributes:
        name: as recipes and the command line write it.
        summary: one line.
        paper: authors, year and title.
        recipe: the class of its recipes; `data` is typed by `families.recipe_schema`.
        module: `"package.module:Class"` of its Lightning module, imported when it is built.
        distils: whether its recipes name a run to start from (`base:`); its module then takes that run's, frozen, as a
            third argument, and the run folder keeps a copy of it.
        shards: whether `trainer.strategy: fsdp` may cut its networks over devices (`Contract.compiled_parts`).
        draws_samples: as its module's, told without importing it.
        state_parts: of its process (`diffusion.process.Process`): which solvers its recipes may name.
    """

    name: str
    summary: str
    paper: str
    recipe: type[Recipe]
    module: str
    distils: bool = False
    shards: bool = False
    draws_samples: bool = True
    state_parts: int = 1
