"""`gentool recipes`: list, show, copy and check recipes."""

from __future__ import annotations

import os
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gentool.cli.options import RecipeSource
from gentool.cli.output import Json, emit, note, print_json, table
from gentool.errors import UserError

if TYPE_CHECKING:
    from gentool.recipes.resolve import Resolved

app = typer.Typer(no_args_is_help=True, add_completion=False)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Overrides: a dotted key and a YAML value (trainer.max_steps=10); ~KEY takes a key out.",
        show_default=False,
    ),
]


@app.callback()
def recipes() -> None:
    """List, show, copy and check recipes."""


@app.command("list")
def list_recipes(json: Json = False) -> None:
    """List the recipes that come with gentool."""
    from gentool.recipes import shipped

    rows = [shipped.describe(name) for name in shipped.names()]
    text = table(("RECIPE", "FAMILY", "DESCRIPTION"), [tuple(row.values()) for row in rows])
    emit({"recipes": rows}, text, json)


@app.command()
def show(
    recipe: RecipeSource,
    overrides: Overrides = None,
    origins: Annotated[
        bool, typer.Option("--origins", help="Say where each value comes from instead.")
    ] = False,
    json: Json = False,
) -> None:
    """Print a recipe complete: checked, overrides applied, defaults written out."""
    resolved = _resolve(recipe, overrides)
    values = resolved.recipe.model_dump(mode="json")
    result = {"name": resolved.name, "recipe": values, "origins": resolved.origins, "text": resolved.text}
    if origins:
        from gentool.recipes.resolve import leaves

        rows = [(key, _flow(value), resolved.origins[key]) for key, value in leaves(values)]
        emit(result, table(("KEY", "VALUE", "ORIGIN"), rows), json)
    else:
        emit(result, resolved.text.rstrip("\n"), json)


@app.command()
def validate(recipe: RecipeSource, overrides: Overrides = None, json: Json = False) -> None:
    """Check a recipe: every fault with its line, exit code 2; or `ok`."""
    resolved = _resolve(recipe, overrides)
    emit({"valid": True, "name": resolved.name, "family": resolved.recipe.family}, f"{recipe}: ok", json)


@app.command()
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A shipped recipe.")],
    destination: Annotated[
        Path | None, typer.Argument(metavar="DEST", help="A file or folder; the current folder when absent.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite DEST.")] = False,
    json: Json = False,
) -> None:
    """Copy a shipped recipe to a file of your own; an existing file is never overwritten without --force."""
    from gentool.recipes import shipped

    source = shipped.path(name)
    target = Path(".") if destination is None else destination
    if target.is_dir():
        target = target / source.name
    _write(target, source.read_bytes(), force)
    note("`gentool recipes schema > gentool.schema.json` beside it lets editors complete and check its keys")
    emit({"path": str(target)}, str(target), json)


@app.command()
def schema(json: Json = False) -> None:
    """Print the JSON Schema of all recipes, for editors (with or without --json: it is JSON)."""
    from gentool.families import FAMILIES, recipe_schema
    from gentool.recipes.json_schema import json_schema

    print_json(json_schema({name: recipe_schema(name) for name in FAMILIES}))


def _resolve(recipe: str, overrides: list[str] | None) -> Resolved:
    from gentool.families import recipe_schema
    from gentool.recipes.resolve import resolve

    return resolve(recipe, overrides or [], recipe_schema)


def _flow(value: object) -> str:
    return dumps(value, ensure_ascii=False)


def _write(target: Path, data: bytes, force: bool) -> None:
    """Write atomically; without `force`, a file that exists (or appears meanwhile) stays."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if not force:
                target.touch(exist_ok=False)  # takes the name, or fails, in one step
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError:
        raise UserError("exists already; --force overwrites it", str(target)) from None
    except OSError as error:
        raise UserError(f"cannot write: {error.strerror}", str(target)) from None
