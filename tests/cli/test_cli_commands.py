"""recipes, families and solvers: what they print, what they refuse, and their JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipe_toy import RECIPE, schema_of

from gentool.cli.app import COMMANDS
from gentool.recipes.resolve import resolve

Gentool = Callable[..., Any]


def test_lists_are_json_objects_of_named_rows(gentool: Gentool) -> None:
    for command in ("recipes", "families", "solvers"):
        ended = gentool(command, "list", "--json")
        assert ended.code == 0
        assert [row["name"] for row in ended.json[command]] == {
            "recipes": ["toy/small"],
            "families": ["toy"],
            "solvers": ["heun"],
        }[command]


def test_lists_in_a_pipe_are_plain_and_whole(gentool: Gentool) -> None:
    assert gentool("recipes", "list").out.splitlines()[1].split() == [
        "toy/small",
        "toy",
        "a",
        "toy",
        "on",
        "digits",
    ]
    ended = gentool("families", "show", "toy")
    assert "\x1b" not in ended.out
    row = next(line for line in ended.out.splitlines() if line.startswith("trainer.matmul"))
    assert row.endswith("float32 matrix precision on GPUs (high is TF32).")


def test_families_show_tells_recipes_and_keys(gentool: Gentool) -> None:
    document = gentool("families", "show", "toy", "--json").json
    assert document["paper"] == "Nobody 2026, Nothing"
    assert document["recipes"] == ["toy/small"]
    keys = {row["key"]: row for row in document["keys"]}
    assert keys["optimizer.lr"]["default"] == "0.0002"
    ended = gentool("families", "show", "toi")
    assert (ended.code, ended.out) == (2, "")
    assert "did you mean toy?" in ended.err


def test_show_prints_a_recipe_that_is_complete(gentool: Gentool) -> None:
    ended = gentool("recipes", "show", "r.yaml", "trainer.max_steps=7", "~optimizer.warmup")
    assert ended.code == 0
    Path("full.yaml").write_text(ended.out)
    again = resolve("full.yaml", [], schema_of)
    assert again.text == ended.out
    assert again.recipe.trainer.max_steps == 7
    document = gentool("recipes", "show", "r.yaml", "--json").json
    assert document["origins"]["data.name"] == "r.yaml:4:14"
    assert document["recipe"]["optimizer"]["lr"] == 2e-4
    assert set(yaml.safe_load(document["text"])) == {*document["recipe"], "schema"}


def test_show_origins_has_a_line_for_every_leaf(gentool: Gentool) -> None:
    lines = gentool("recipes", "show", "toy/small", "seed=3", "--origins").out.splitlines()
    table = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines[1:]}
    assert table["seed"] == ["3", "override 'seed=3'"]
    assert table["trainer.max_steps"][0] == "20"
    assert table["trainer.max_steps"][1] == "toy/small.yaml:11:22"
    assert table["trainer.nodes"][1] == "default"


def test_validate_tells_every_fault_in_the_promised_form(gentool: Gentool) -> None:
    assert gentool("recipes", "validate", "r.yaml").out == "r.yaml: ok\n"
    Path("r.yaml").write_text(RECIPE.replace("width", "widht").replace("20", "many"))
    ended = gentool("recipes", "validate", "r.yaml")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines() == [
        "r.yaml:8:5 model.network.widht: unknown key; did you mean width?",
        "r.yaml:11:22 trainer.max_steps: expected an integer above 0, got 'many'",
    ]
    error = gentool("recipes", "validate", "r.yaml", "--json").json["error"]
    assert (error["kind"], error["where"]) == ("recipe", "r.yaml:8:5")
    assert error["message"] == ended.err.rstrip("\n")
    assert error["problems"][1] == {
        "where": "r.yaml:11:22",
        "key": "trainer.max_steps",
        "message": "expected an integer above 0, got 'many'",
    }


def test_validate_json_on_success(gentool: Gentool) -> None:
    assert gentool("recipes", "validate", "toy/small", "--json").json == {
        "valid": True,
        "name": "toy/small",
        "family": "toy",
    }


def test_copy_never_overwrites_without_force(gentool: Gentool) -> None:
    ended = gentool("recipes", "copy", "toy/small")
    assert (ended.code, ended.out) == (0, "small.yaml\n")
    assert Path("small.yaml").read_text() == RECIPE
    Path("small.yaml").write_text("mine")
    ended = gentool("recipes", "copy", "toy/small", "--json")
    assert (ended.code, ended.json["error"]["kind"], ended.json["error"]["where"]) == (
        2,
        "input",
        "small.yaml",
    )
    assert Path("small.yaml").read_text() == "mine"
    assert gentool("recipes", "copy", "toy/small", "small.yaml", "--force").code == 0
    assert Path("small.yaml").read_text() == RECIPE
    Path("folder").mkdir()
    assert gentool("recipes", "copy", "toy/small", "folder", "--json").json == {"path": "folder/small.yaml"}
    assert not list(Path().rglob(".small.yaml*")), "temporary files are swept"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("toy/smal",), "did you mean toy/small?"),
        (("toy/small", "nowhere/x.yaml"), "No such file or directory"),
        (("toy/small", "r.yaml/x"), "Not a directory"),
    ],
)
def test_copy_refuses(gentool: Gentool, arguments: tuple[str, ...], words: str) -> None:
    ended = gentool("recipes", "copy", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err


def test_schema_is_one_json_document(gentool: Gentool) -> None:
    assert gentool("recipes", "schema").json["properties"]["family"]["enum"] == ["toy"]


def test_help_of_everything(gentool: Gentool) -> None:
    ended = gentool("--help")
    assert ended.code == 0
    for name, (_, line) in COMMANDS.items():
        assert name in ended.out
        assert line in ended.out
        assert gentool(name, "-h").code == 0
    for line in ("recipes list", "recipes show", "recipes copy", "families show", "solvers list"):
        ended = gentool(*line.split(), "--help")
        assert ended.code == 0
        assert f"gentool {line} " in ended.out, "the usage line names the whole command"
        assert "--json" in ended.out


def test_version(gentool: Gentool) -> None:
    from gentool import __version__

    assert gentool("--version").out == f"gentool {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("recipe", "list"),
        ("recipes", "lst"),
        ("recipes", "list", "--nosuch"),
        ("recipes", "validate"),
        ("recipes", "copy", "a", "b", "c"),
    ],
)
def test_usage_errors_exit_2_as_text_and_as_json(gentool: Gentool, arguments: tuple[str, ...]) -> None:
    ended = gentool(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "Error: " in ended.err
    assert "Traceback" not in ended.err
    ended = gentool(*arguments, "--json")
    assert ended.code == 2
    error = json.loads(ended.out)["error"]
    assert error["kind"] == "usage"
    assert error["message"]
    assert set(error) == {"kind", "message", "where"}
