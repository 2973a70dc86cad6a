"""Options that commands share, as types: `count: FirstCount = None`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gentool.errors import UserError

MAX_SEED = 2**63 - 1
"""The largest seed that files can keep; that of recipes too."""


def optional(*names: str, metavar: str | None = None, help: str | None = None, **more: Any) -> Any:
    """An option that is None where it is not given; its help says what that comes to.

    Args:
        names: `--set`, `-o`; none takes the parameter's own. more: as `typer.Option` takes it.
    """
    return typer.Option(*names, metavar=metavar, help=help, show_default=False, **more)


def out_option(help: str) -> Any:
    """The option -o, --out, of a type `Path | None`; `help` says which outputs there are."""
    return optional("-o", "--out", metavar="OUT", help=help)


def check_report(path: Path) -> None:
    """Refuses, before any work, what is no place for a page.

    Raises:
        UserError: another kind of file, which would be lost, or one that cannot be written.
    """
    from gentool.runs.atomic import check_writable

    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise UserError(f"expected a .html file, got {str(path)!r}", "--report")
    check_writable(path.parent)


RecipeSource = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")
]
Devices = Annotated[int | None, optional(min=1, metavar="N", help="Devices per node.")]
Nodes = Annotated[int | None, optional(min=1, metavar="N", help="Machines.")]
FirstCount = Annotated[int | None, optional("-n", "--count", min=1, metavar="N", help="The first N alone.")]
PicturesPerCall = Annotated[int, typer.Option(min=1, metavar="B", help="Pictures per network call.")]
