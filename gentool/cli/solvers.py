"""`gentool solvers`: what sampling can integrate with."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gentool.cli.options import optional
from gentool.cli.output import Json, emit, table

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def solvers() -> None:
    """List the solvers that sampling can use."""


@app.command("list")
def list_solvers(
    run: Annotated[
        str | None,
        optional(
            "--for",
            metavar="RUN",
            help="Say which of them this run can be sampled with, and why not the others.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List every solver: its order, network calls (NFE) for N steps, needs and paper."""
    from gentool.diffusion.solvers.catalog import SOLVERS

    infos = [SOLVERS.get(name) for name in SOLVERS]
    rows: list[dict[str, Any]] = [
        {
            "name": info.name,
            "summary": info.summary,
            "order": info.order,
            "nfe": info.nfe,
            "needs": info.needs,
            "paper": info.paper,
        }
        for info in infos
    ]
    if run is None:
        text = table(
            ("SOLVER", "ORDER", "NFE", "SUMMARY", "PAPER"),
            [(row["name"], row["order"], row["nfe"], row["summary"], row["paper"]) for row in rows],
        )
    else:
        from gentool.tasks.model.load import load_run

        usable = load_run(run)[2].usable_solvers()
        rows = [row | {"usable": usable[row["name"]] is None, "reason": usable[row["name"]]} for row in rows]
        text = table(
            ("SOLVER", "ORDER", "NFE", "FOR THIS RUN"),
            [
                (row["name"], row["order"], row["nfe"], "yes" if row["usable"] else f"no: {row['reason']}")
                for row in rows
            ],
        )
    emit({"solvers": rows}, text, json)
