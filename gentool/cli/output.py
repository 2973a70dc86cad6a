"""What commands print: results on standard output, everything for watching on standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]


def emit(result: Mapping[str, Any], text: RenderableType, as_json: bool) -> None:
    """Print a command's result: the JSON document, or `text` (a string as it is, else for rich to render)."""
    if as_json:
        print_json(result)
    elif isinstance(text, str):
        print(text)
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(text)
    else:
        print(_plain(text))


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document on standard output; numbers that JSON lacks (NaN, infinity) become null."""
    print(json.dumps(_finite(document), indent=2, allow_nan=False))


def _plain(text: RenderableType) -> str:
    """As a pipe takes it: no colours, nothing wrapped or cut, no blanks at the ends of lines."""
    from rich.console import Console

    console = Console(file=StringIO(), width=10_000, color_system=None)
    with console.capture() as capture:
        console.print(text)
    return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").split("\n"))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def note(message: str, quiet: bool = False) -> None:
    """A line for people, on standard error."""
    if not quiet:
        print(message, file=sys.stderr)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> RenderableType:
    """A plain table; the first column is never cut, so that it can be copied."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        made.add_column(column, no_wrap=index == 0, overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    return made
