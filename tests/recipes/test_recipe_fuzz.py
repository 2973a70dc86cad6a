"""Fuzzing: whatever recipe and overrides hold, a recipe or a `RecipeError` comes out, within a CPU second."""

from __future__ import annotations

import copy
import random
import re
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recipe_toy import RECIPE, schema_of

from gentool.errors import Problem, RecipeError
from gentool.recipes.loader import load
from gentool.recipes.resolve import leaves, resolve

LINES = RECIPE.splitlines(keepends=True)
PIECES = [
    "\t", "  ", ":", ": ", "- ", "? ", "[", "]", "{", "}", ",", "&a ", "*a", "!!str ", "!x ", "|", ">", "'",
    '"', "\\", "#", "---\n", "...\n", "%YAML 1.1\n", "%YAML 9.9999999999999999999\n", "%TAG ! a\n", "\n",
    "\r", "\x00", "\x85", "\u2028", "\ufeff", "\U0001f600", '"\\ud800"', '"\\UFFFFFFFF"', "<<: ", "null",
    "~", "true", "on", ".nan", ".inf", "012", "1e999", "1e-3", "-1", "0x", "0o8", "12:30", "9" * 30, "name",
    "family: ", "data: ", "model: ", "trainer: ", "schema: 2", "mlp", "unet",
]  # fmt: skip
odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(-2, 3), max_size=3),
    st.sampled_from(
        [{}, {"name": "mlp"}, {"name": "unet", "width": 0}, {"name": []}, [{}], [[]], {"a": {"b": {}}}]
    ),
)


def check(data: bytes, overrides: list[str], folder: Path) -> None:
    file = folder / "r.yaml"
    file.write_bytes(data)
    start = process_time()
    problems: tuple[Problem, ...] = ()
    try:
        resolved = resolve(file, overrides, schema_of)
    except RecipeError as error:
        problems = error.problems
        resolved = None
    if resolved is None:
        assert problems
        for problem in problems:
            assert re.match(r"override |.*r\.yaml:\d+:\d+$", problem.where)
            assert problem.message
    else:
        file.write_text(resolved.text, encoding="utf-8")
        assert resolve(file, [], schema_of).recipe == resolved.recipe
    assert process_time() - start < 1


quick = settings(deadline=None, max_examples=400, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@quick
@given(st.binary(max_size=200))
def test_random_bytes(folder: Path, data: bytes) -> None:
    check(data, [], folder)


def test_mutated_text(folder: Path) -> None:
    """Thousands of recipes with pieces put in, cut out, and lines moved and doubled."""
    chance = random.Random(0)
    for _ in range(2000):
        text = RECIPE
        for _ in range(chance.randint(1, 4)):
            at, end = sorted(chance.randrange(len(text) + 1) for _ in range(2))
            match chance.randrange(4):
                case 0:
                    text = text[:at] + chance.choice(PIECES) + text[at:]
                case 1:
                    text = text[:at] + text[min(end, at + chance.randint(1, 6)) :]
                case 2:
                    text = text[:at] + chance.choice(PIECES) + text[min(end, at + 3) :]
                case 3:
                    text = text[:at] + chance.choice(LINES) + text[at:]
        check(text.encode("utf-8", "surrogatepass"), [], folder)


def test_mutated_bytes(folder: Path) -> None:
    chance = random.Random(1)
    for _ in range(1000):
        data = bytearray(RECIPE.encode())
        for _ in range(chance.randint(1, 5)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        check(bytes(data), [], folder)


@quick
@given(st.data())
def test_mutated_structure(folder: Path, data: st.DataObject) -> None:
    """Values replaced by values of any type, keys renamed, blocks put where they do not belong."""
    tree: dict[str, Any] = load(RECIPE.encode(), "r", []).plain()
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from([key for key, _ in leaves(tree)]))
        *path, last = key.split(".")
        depth = data.draw(st.integers(0, len(path)))
        block: Any = tree
        for name in path[:depth]:
            block = block[int(name) if isinstance(block, list) else name]
        name = (*path, last)[depth]
        if isinstance(block, list):
            block[int(name)] = copy.deepcopy(data.draw(odd))
        elif data.draw(st.booleans()):
            block[name] = copy.deepcopy(data.draw(odd))
        else:
            renamed = data.draw(
                st.sampled_from([name + "s", name[1:], "name", "0", "[key]", "Unet", "mlp", "a b"])
            )
            block[renamed] = block.pop(name)
    check(repr_yaml(tree).encode("utf-8", "surrogatepass"), [], folder)


def repr_yaml(value: Any) -> str:
    """Flow YAML without care: `nan`, `None` and `True` as Python writes them, quotes as they fall."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {repr_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(repr_yaml, value)) + "]"
    return repr(value)


KEYS = [key for key, _ in leaves(load(RECIPE.encode(), "r", []).plain())]
KEYS += ["ema", "ema.decay", "model.critic", "model.critic.name", "model.heads.0", "trainer", "schema", ""]
dotted = st.sampled_from(KEYS)
override = st.one_of(
    st.builds("{}={}".format, dotted, st.text(max_size=6) | st.sampled_from(PIECES) | odd.map(repr_yaml)),
    dotted.map("~{}".format),
    st.text(max_size=12),
)


@quick
@given(st.lists(override, min_size=1, max_size=4))
def test_random_overrides(folder: Path, overrides: list[str]) -> None:
    check(RECIPE.encode(), overrides, folder)
