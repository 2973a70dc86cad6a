"""The JSON Schema that editors complete and check recipes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gentool.recipes.schema import SCHEMA, Recipe


def json_schema(recipes: Mapping[str, type[Recipe]]) -> dict[str, Any]:
    """One JSON Schema (draft 2020-12) for recipes of every family: `family` decides what checks the rest.

    Args:
        recipes: family name -> the class of its recipes.
    """
    from pydantic.json_schema import models_json_schema

    parts, defs = models_json_schema([(model, "validation") for model in recipes.values()])
    definitions = defs.get("$defs", {})
    rules = []
    for name, model in recipes.items():
        reference = parts[(model, "validation")]["$ref"]
        block = definitions[reference.rpartition("/")[2]]
        block["properties"]["family"]["const"] = name
        block["properties"] = {
            "schema": {"const": SCHEMA, "description": "Version of the recipe grammar."}
        } | block["properties"]
        rules.append(
            {
                "if": {"properties": {"family": {"const": name}}, "required": ["family"]},
                "then": {"$ref": reference},
            }
        )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gentool recipe",
        "type": "object",
        "properties": {"family": {"enum": list(recipes), "description": "Which model family."}},
        "required": ["family"],
        "allOf": rules,
        "$defs": definitions,
    }
