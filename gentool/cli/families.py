"""`gentool families`: the model families and the keys of their recipes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gentool.cli.output import Json, emit, table

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def families() -> None:
    """List the model families and their recipes' keys."""


@app.command("list")
def list_families(json: Json = False) -> None:
    """List every family with its paper."""
    from gentool.families import FAMILIES

    rows = [_row(name) for name in FAMILIES]
    text = table(
        ("FAMILY", "SUMMARY", "PAPER"), [(row["name"], row["summary"], row["paper"]) for row in rows]
    )
    emit({"families": rows}, text, json)


@app.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A family.")], json: Json = False) -> None:
    """Show a family: paper, shipped recipes, and every key of its recipes with type, default and meaning."""
    from rich.console import Group

    from gentool.families import FAMILIES, recipe_schema
    from gentool.recipes import shipped
    from gentool.recipes.reference import reference

    FAMILIES.check(name)
    keys = reference(recipe_schema(name))
    recipes = [recipe for recipe in shipped.names() if shipped.describe(recipe)["family"] == name]
    row = _row(name)
    text = Group(
        f"{name}: {row['summary']}\n{row['paper']}\n\nrecipes: {', '.join(recipes) or 'none'}\n",
        table(
            ("KEY", "TYPE", "DEFAULT", "MEANING"),
            [(key.key, key.type, key.default, key.meaning) for key in keys],
        ),
    )
    emit({**row, "recipes": recipes, "keys": [key.as_dict() for key in keys]}, text, json)


def _row(name: str) -> dict[str, Any]:
    from gentool.families import FAMILIES

    family = FAMILIES.get(name)
    return {"name": family.name, "summary": family.summary, "paper": family.paper}
