"""Options of the metrics that have any, and of no torch: they are checked before any work is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from gentool.errors import RecipeError
from gentool.recipes.explain import explain
from gentool.recipes.loader import Node
from gentool.recipes.schema import Positive, Strict

S = TypeVar("S", bound=Strict)


class DownstreamOptions(Strict):
    """Of `downstream`; the defaults are the protocol of the papers."""

    networks: Annotated[tuple[Literal["logreg", "mlp", "cnn"], ...], Field(min_length=1)] = (
        "logreg",
        "mlp",
        "cnn",
    )
    """Which classifiers to train."""
    epochs: Positive = 50
    """Passes over the training samples."""
    repeats: Positive = 1
    """Trainings with other seeds, averaged; the details list each."""


class CloudOptions(Strict):
    """Of the metrics of clouds."""

    points: Positive | None = None
    """Compare only the first so many points of each cloud; absent: all. Figures of other numbers differ."""


def check(schema: type[S], given: Any, where: str) -> S:
    """The options that `given` states, checked as a recipe is; `where` is what messages call the place.

    Raises:
        RecipeError: every fault at once.
    """
    try:
        return schema.model_validate_json(json.dumps(given))
    except ValidationError as error:
        raise RecipeError(explain(error, schema, _tree(given, where))) from None


def _tree(value: Any, where: str) -> Node:
    """Plain values as the loader's tree, all of them at one place."""
    if isinstance(value, Mapping):
        return Node({str(key): _tree(item, where) for key, item in value.items()}, where, where)
    if isinstance(value, list | tuple):
        return Node([_tree(item, where) for item in value], where, where)
    return Node(value, where, where)
