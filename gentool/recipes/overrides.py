"""Overrides from the command line: `a.b=VALUE` sets a key, `~a.b` takes it out (back to its default).

VALUE is YAML, read by the recipe's own loader: `optimizer.lr=1e-3`, `sample.guidance={cfg: {scale: 2}}`. It
ends at the end of the argument, so it may hold `=`; an empty VALUE is null, as after `key:` in a file; text
that YAML would read as something else is quoted (`description="3"`). Later overrides win.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gentool.errors import Problem, RecipeError, did_you_mean
from gentool.recipes.explain import explain
from gentool.recipes.loader import MAX_DEPTH, Node, is_text, parse

BlockT = TypeVar("BlockT", bound=BaseModel)


def apply(root: Node, overrides: Sequence[str], problems: list[Problem]) -> Node:
    """A tree with the overrides in it; places of what they set read `override 'a.b=value'`.

    Faults are appended to `problems`; an override that has one is left out. Whether a key exists is for the
    schema to say.
    """
    for text in overrides:
        where = f"override {text!r}"
        name, equals, value = text.partition("=")
        remove = name.startswith("~")
        name = name.removeprefix("~").strip()
        path = name.split(".")
        if remove == bool(equals) or not all(path) or len(path) > MAX_DEPTH or not is_text(name):
            problems.append(
                Problem(where, "", "expected KEY=VALUE or ~KEY, with a dotted key such as trainer.max_steps")
            )
            continue
        if remove:
            root = _remove(root, path, where, problems)
            continue
        found: list[Problem] = []
        try:
            node = parse(value, lambda line, column, where=where: where, found, name)  # type: ignore[misc]
        except RecipeError as error:
            problems.extend(error.problems)
            continue
        problems.extend(found)
        root = _set(root, path, node, where, problems)
    return root


def parse_pairs(pairs: Sequence[str], where: str) -> dict[str, Any]:
    """`KEY=VALUE` texts as plain values, by the same grammar: what `--option eta=0.5` means.

    Raises:
        RecipeError: with every fault at once.
    """
    problems: list[Problem] = []
    values = apply(Node({}, where, where), pairs, problems).plain()
    if problems:
        raise RecipeError(problems)
    return dict(values)


def parse_block(pairs: Sequence[str], model: type[BlockT], where: str) -> BlockT:
    """`KEY=VALUE` texts as one block of a schema, checked as a recipe's are.

    Raises:
        RecipeError: with every fault at once.
    """
    problems: list[Problem] = []
    node = apply(Node({}, where, where), pairs, problems)
    if not problems:
        try:
            return model.model_validate(node.plain())
        except ValidationError as error:
            problems = explain(error, model, node)
    raise RecipeError(problems)


def _set(
    root: Node, path: list[str], node: Node, where: str, problems: list[Problem], depth: int = 0
) -> Node:
    if depth == len(path):
        return node
    # null switches a block off (`ema: null`); setting a key inside switches it on again.
    children = {} if root.value is None else root.value
    if not isinstance(children, dict):
        parent = ".".join(path[:depth])
        what = (
            "is a list: give the whole list"
            if isinstance(children, list)
            else "is a value, not a block of keys"
        )
        problems.append(Problem(where, ".".join(path), f"{parent} {what}"))
        return root
    key = path[depth]
    child = children.get(key, Node({}, where, where))
    return Node(
        {**children, key: _set(child, path, node, where, problems, depth + 1)}, root.where, root.key_where
    )


def _remove(root: Node, path: list[str], where: str, problems: list[Problem], depth: int = 0) -> Node:
    children = root.value if isinstance(root.value, dict) else {}
    key = path[depth]
    if key not in children:
        hint = did_you_mean(key, list(children))
        problems.append(
            Problem(where, ".".join(path), f"the recipe does not set it, so there is nothing to remove{hint}")
        )
        return root
    rest = {name: node for name, node in children.items() if name != key}
    if depth + 1 < len(path):
        rest = {**children, key: _remove(children[key], path, where, problems, depth + 1)}
    return Node(rest, root.where, root.key_where)
