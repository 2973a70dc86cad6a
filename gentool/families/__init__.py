"""Model families by name.

A new family is a folder here (or a package elsewhere) and one line that names its `FAMILY`: below, or an
entry point of the group `gentool.families`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Union, cast

from gentool.registry import Registry, resolve

if TYPE_CHECKING:
    from gentool.families.base import Family
    from gentool.recipes.schema import Recipe
    from gentool.training.module import GenModule

FAMILIES: Registry[Family] = Registry(
    "family",
    {
        "edm": "gentool.families.edm.config:FAMILY",
        "cld": "gentool.families.cld.config:FAMILY",
        "dpdm": "gentool.families.dpdm.config:FAMILY",
        "genie": "gentool.families.genie.config:FAMILY",
        "a-vit": "gentool.families.a_vit.config:FAMILY",
        "classifier": "gentool.families.classifier.config:FAMILY",
        "ddgan": "gentool.families.ddgan.config:FAMILY",
        "lion": "gentool.families.lion.config:FAMILY",
        "sap": "gentool.families.sap.config:FAMILY",
        "dp-sinkhorn": "gentool.families.dp_sinkhorn.config:FAMILY",
        "pfgmpp": "gentool.families.pfgmpp.config:FAMILY",
        "lace": "gentool.families.lace.config:FAMILY",
        "editgan": "gentool.families.editgan.config:FAMILY",
        "stylegan2": "gentool.families.stylegan2.config:FAMILY",
    },
    group="gentool.families",
)


@cache
def recipe_schema(name: str) -> type[Recipe]:
    """The class that checks a family's recipes: the family's own, with `data` typed as any data set by name.

    Raises:
        UserError: for an unknown family.
    """
    from pydantic import Field, create_model, model_validator

    from gentool.data.config import CONFIGS
    from gentool.families.names import CheckedEvaluate, checked_sample
    from gentool.families.private import check_privacy
    from gentool.families.sharding import check_sharding

    family = FAMILIES.get(name)
    data_set: Any = Union[tuple(CONFIGS.values())]  # noqa: UP007
    own_name: Any = Literal[name]
    shared = family.recipe.model_fields
    sample = checked_sample(cast(Any, shared["sample"].annotation), family.state_parts)

    def shards(recipe: Recipe) -> Recipe:
        return check_sharding(recipe, family.shards)

    validators: dict[str, Any] = {
        "check_privacy": model_validator(mode="after")(check_privacy),
        "check_sharding": model_validator(mode="after")(shards),
    }
    return create_model(
        f"{family.recipe.__name__}OnData",
        __base__=family.recipe,
        __doc__=family.summary,
        __validators__=validators,
        family=(own_name, Field(description=shared["family"].description)),
        data=(data_set, Field(discriminator="name", description=shared["data"].description)),
        sample=(sample, Field(sample(), description=shared["sample"].description)),
        evaluate=(CheckedEvaluate, Field(CheckedEvaluate(), description=shared["evaluate"].description)),
    )


def module_class(name: str) -> type[GenModule]:
    """The Lightning module of a family.

    Raises:
        UserError: for an unknown family.
    """
    made: type[GenModule] = resolve(FAMILIES.get(name).module)
    return made
