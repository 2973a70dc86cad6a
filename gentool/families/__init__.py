"""Model families by name. A new family is a folder here (or a package elsewhere) and one line: below, or an entry
point of the group `gentool.families`, that names its `FAMILY`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated, Literal, Union

from gentool.registry import Registry, resolve

if TYPE_CHECKING:
    from gentool.families.base import Family
    from gentool.recipes.schema import Recipe
    from gentool.training.module import GenModule

FAMILIES: Registry[Family] = Registry(
    "family", {"edm": "gentool.families.edm.config:FAMILY"}, group="gentool.families"
)


@cache
def recipe_schema(name: str) -> type[Recipe]:
    """The class that checks the recipes of a family: the family's own, with `data` typed as any data set by name.

    Raises:
        UserError: for an unknown family.
    """
    from pydantic import Field, create_model

    from gentool.data.config import CONFIGS

    family = FAMILIES.get(name)
    data_set = Annotated[Union[tuple(CONFIGS.values())], Field(discriminator="name")]
    shared = family.recipe.model_fields
    return create_model(
        f"{family.recipe.__name__}OnData",
        __base__=family.recipe,
        __doc__=family.summary,
        family=(Literal[name], Field(description=shared["family"].description)),
        data=(data_set, Field(description=shared["data"].description)),
    )


def module_class(name: str) -> type[GenModule]:
    """The Lightning module of a family.

    Raises:
        UserError: for an unknown family.
    """
    made: type[GenModule] = resolve(FAMILIES.get(name).module)
    return made
