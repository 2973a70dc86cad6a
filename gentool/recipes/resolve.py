"""A recipe and its overrides, resolved: every key with its value and where the value comes from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gentool.errors import Problem, RecipeError, UserError, did_you_mean
from gentool.recipes import shipped
from gentool.recipes.defaults import fill
from gentool.recipes.dump import dump
from gentool.recipes.explain import explain
from gentool.recipes.loader import MAX_BYTES, Node, load
from gentool.recipes.overrides import apply
from gentool.recipes.schema import SCHEMA, Recipe

DEFAULT = "default"


@dataclass(frozen=True)
class Resolved:
    """A checked recipe.

    Attributes:
        recipe: the values, of the family's own class.
        name: the shipped name, or the file's stem.
        text: complete YAML, defaults and overrides written out; it resolves to the same recipe.
        origins: dotted key of every leaf -> `file:line:col`, `override 'a.b=value'` or `default`.
    """

    recipe: Recipe
    name: str
    text: str
    origins: dict[str, str]


def resolve(
    source: str | Path, overrides: Sequence[str], schema_of: Callable[[str], type[Recipe]]
) -> Resolved:
    """Read the recipe `source` (a path or a shipped name), apply `overrides`, check all of it.

    Args:
        schema_of: a family's name -> the class that checks its recipes; a `UserError` for an unknown name.

    Raises:
        RecipeError: with every fault of file and overrides at once.
        UserError: there is no such recipe, or it cannot be read.
    """
    name, shown, data = _read(source)
    return _resolve(name, shown, data, overrides, schema_of)


def resolve_text(text: str, name: str, schema_of: Callable[[str], type[Recipe]]) -> Resolved:
    """The recipe of a text, such as samples carry; raises as `resolve`, with `name` for the file's."""
    return _resolve(name, name, text.encode(), (), schema_of)


def _resolve(
    name: str, shown: str, data: bytes, overrides: Sequence[str], schema_of: Callable[[str], type[Recipe]]
) -> Resolved:
    problems: list[Problem] = []
    root = apply(load(data, shown, problems), overrides, problems)
    root = _without_schema(root, problems)
    recipe = _check(root, schema_of, problems)
    if recipe is None:
        raise RecipeError(problems)
    values = recipe.model_dump(mode="json")
    return Resolved(recipe, name, dump(values), {key: _origin(root, key) for key, _ in leaves(values)})


def _read(source: str | Path) -> tuple[str, str, bytes]:
    """Name, the file as messages call it, and its bytes (one more than allowed, at most)."""
    path, name = Path(source), Path(source).stem
    shown = str(source)
    try:
        if (path.is_dir() or not path.exists()) and str(source) in shipped.names():
            name, path, shown = str(source), shipped.path(str(source)), f"{source}.yaml"
        with path.open("rb") as file:
            return name, shown, file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        hint = did_you_mean(str(source), shipped.names())
        raise UserError(f"no such recipe: neither a file nor a shipped name{hint}", shown) from None
    except OSError as error:
        raise UserError(f"cannot read the recipe: {error.strerror}", shown) from None
    except ValueError:  # a null byte in the path
        raise UserError("not a path or the name of a recipe", repr(source)) from None


def _without_schema(root: Node, problems: list[Problem]) -> Node:
    """The tree less its `schema:` key; a recipe of another grammar is not judged by the keys of this one."""
    assert isinstance(root.value, dict)
    if (version := root.value.get("schema")) is None:
        return root
    if type(version.value) is not int or version.value != SCHEMA:
        later = isinstance(version.value, int) and version.value > SCHEMA
        advice = "upgrade gentool to read it" if later else f"write schema: {SCHEMA}"
        message = f"this gentool reads recipes of schema {SCHEMA}, not {version.plain()!r}; {advice}"
        raise RecipeError([*problems, Problem(version.where, "schema", message)])
    rest = {key: node for key, node in root.value.items() if key != "schema"}
    return Node(rest, root.where, root.key_where)


class _AnyFamily(Recipe, extra="ignore"):
    """Checks the shared sections of a recipe whose family is not known: it may have sections of its own."""


def _check(root: Node, schema_of: Callable[[str], type[Recipe]], problems: list[Problem]) -> Recipe | None:
    """The recipe, or None with the faults in `problems`."""
    assert isinstance(root.value, dict)
    family = root.value.get("family")
    model: type[Recipe] = _AnyFamily
    if family is not None and isinstance(family.value, str):
        try:
            model = schema_of(family.value)
        except UserError as error:
            problems.append(Problem(family.where, "family", error.message))
    # What the loader and the overrides found already would show up again, distorted.
    known = {problem.key for problem in problems}
    try:
        # As JSON: there pydantic's strict mode takes lists for tuples and integers for numbers, no more.
        recipe = model.model_validate_json(json.dumps(fill(root.plain(), model)))
    except ValidationError as error:
        for problem in explain(error, model, root):
            parts = problem.key.split(".")
            if known.isdisjoint(".".join(parts[:end]) for end in range(1, len(parts) + 1)):
                problems.append(problem)
        return None
    return None if problems else recipe


def leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of all that is not itself a block; a list is a leaf unless it holds blocks."""
    items: list[tuple[str, Any]] = []
    if isinstance(values, dict):
        items = list(values.items())
    elif isinstance(values, list) and any(isinstance(item, dict) for item in values):
        items = [(str(index), item) for index, item in enumerate(values)]
    if not items:
        yield prefix, values
    for key, value in items:
        yield from leaves(value, f"{prefix}.{key}" if prefix else key)


def _origin(root: Node, key: str) -> str:
    node = root
    for item in key.split("."):
        if isinstance(node.value, dict):
            if item not in node.value:
                return DEFAULT
            node = node.value[item]
        elif isinstance(node.value, list) and item.isdigit() and int(item) < len(node.value):
            node = node.value[int(item)]
    return node.where
