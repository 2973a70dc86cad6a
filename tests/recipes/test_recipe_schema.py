"""The JSON Schema that editors use, the registry's classes, and the reference of keys."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter
from recipe_toy import Digits, Folder, ToyRecipe

from gentool import families
from gentool.families.base import Family
from gentool.recipes.json_schema import json_schema
from gentool.recipes.reference import REQUIRED, reference
from gentool.recipes.schema import Recipe, Strict


class OtherRecipe(Recipe):
    model: None = None


@pytest.fixture
def document() -> dict[str, Any]:
    return json_schema({"toy": ToyRecipe, "other": OtherRecipe})


def test_json_schema_lets_the_family_choose_what_checks_the_rest(document: dict[str, Any]) -> None:
    assert document["properties"]["family"]["enum"] == ["toy", "other"]
    targets = {
        rule["if"]["properties"]["family"]["const"]: rule["then"]["$ref"] for rule in document["allOf"]
    }
    toy = document["$defs"][targets["toy"].rpartition("/")[2]]
    assert toy["additionalProperties"] is False
    assert toy["properties"]["family"]["const"] == "toy"
    assert toy["properties"]["schema"] == {"const": 1, "description": "Version of the recipe grammar."}
    assert {"data", "model", "trainer"} <= set(toy["properties"])


def test_every_reference_in_the_json_schema_resolves(document: dict[str, Any]) -> None:
    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            here = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return here.union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    assert references(document) <= {f"#/$defs/{name}" for name in document["$defs"]}


def test_every_shared_key_is_described(document: dict[str, Any]) -> None:
    for name in ("Trainer", "Optimizer", "Ema", "Sample", "Evaluate"):
        for key, entry in document["$defs"][name]["properties"].items():
            assert entry.get("description"), f"{name}.{key}"


def test_reference_lists_nested_and_tagged_keys_with_the_blocks_own_defaults() -> None:
    rows = {row.key: row for row in reference(ToyRecipe)}
    assert rows["data"].default == REQUIRED
    assert rows["data[digits].batch_size"].type == "an integer above 0"
    assert rows["data[digits].batch_size"].meaning == "Examples per step."
    assert rows["data[images, folder].path"].default == REQUIRED
    assert rows["optimizer.lr"].default == "0.0002"
    assert rows["model.network[unet].width"].default == "32"
    assert rows["model.network[mlp].hidden"].default == "[128]"
    assert rows["ema.decay"].default == "0.999"


def test_recipe_schema_joins_family_and_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(Recipe):
        """A family's class as it is written: `data` is left to the registry."""

        model: Strict = Strict()

    module = type("module", (), {"CONFIGS": {"digits": Digits, "images": Folder}})
    registry = type(
        "registry", (), {"get": lambda self, name: Family(name, "a plain family", "nobody", Plain, "m:C")}
    )
    monkeypatch.setitem(__import__("sys").modules, "gentool.data.config", module)
    monkeypatch.setattr(families, "FAMILIES", registry())
    made = families.recipe_schema.__wrapped__("plain")
    assert issubclass(made, Plain)
    assert list(made.model_fields) == list(Plain.model_fields)
    recipe = TypeAdapter(made).validate_json('{"family": "plain", "data": {"name": "images", "path": "x"}}')
    assert isinstance(recipe.data, Folder)
    assert made.model_fields["data"].description == Recipe.model_fields["data"].description
