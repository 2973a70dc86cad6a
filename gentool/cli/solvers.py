"""`gentool solvers`: what sampling can integrate with."""

from __future__ import annotations

import typer

from gentool.cli.output import Json, emit, table

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def solvers() -> None:
    """List the solvers that sampling can use."""


@app.command("list")
def list_solvers(json: Json = False) -> None:
    """List every solver: its order, network calls (NFE) for N steps, needs and paper."""
    from gentool.diffusion.solvers.catalog import SOLVERS

    infos = [SOLVERS.get(name) for name in SOLVERS]
    rows = [
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
    text = table(
        ("SOLVER", "ORDER", "NFE", "SUMMARY", "PAPER"),
        [(row["name"], row["order"], row["nfe"], row["summary"], row["paper"]) for row in rows],
    )
    emit({"solvers": rows}, text, json)
