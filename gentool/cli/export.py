"""`gentool export`: from a run folder to what of it can be published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gentool.cli.output import Json, emit, note

app = typer.Typer(add_completion=False)


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, as `gentool train` printed it.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="The folder to make.")],
    json: Json = False,
) -> None:
    """Write what can be published of a run to a folder of its own: weights, recipe, ledger and model card.

    Nothing else that training computed from the data goes along. The folder is a RUN for sample and privacy-account.
    """
    from gentool.tasks.export import export as work

    done = work(run, out)
    account = done.account
    result = {
        "path": str(done.path),
        "files": list(done.files),
        "private": account is not None and account.not_private is None,
        "epsilon": None if account is None else account.epsilon,
        "delta": None if account is None else account.spent.delta,
    }
    if account is None:
        note("trained without differential privacy: the weights may reveal training examples")
    elif account.not_private is not None:
        note(f"NOT PRIVATE: {account.not_private}")
    emit(result, str(done.path), json)
