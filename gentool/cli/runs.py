"""`gentool runs`: the run folders on disk, how far they are and what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gentool.cli.output import Json, emit, note, table

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def runs() -> None:
    """List run folders and show what one holds."""


@app.command("list")
def list_runs(
    folder: Annotated[
        Path,
        typer.Argument(metavar="[DIR]", help="Where to look, with all folders inside.", show_default=True),
    ] = Path("runs"),
    json: Json = False,
) -> None:
    """List every run below a folder: recipe, state, step, loss and, of private ones, epsilon."""
    from gentool.tasks.run_list import find_runs, status

    found = [status(path) for path in find_runs(folder)]
    rows = [
        (
            one.path,
            one.recipe,
            one.state,
            f"{one.step}/{one.max_steps}",
            _figure(one.loss),
            _epsilon(one.epsilon),
        )
        for one in found
    ]
    emit(
        {"runs": [one.row() for one in found]},
        table(("RUN", "RECIPE", "STATE", "STEP", "LOSS", "EPSILON"), rows),
        json,
    )
    for one in found:
        if one.fault is not None:
            note(f"warning: {one.fault}")


@app.command()
def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")], json: Json = False
) -> None:
    """Show a run: state, lives, checkpoints, samples and figures."""
    from rich.console import Group

    from gentool.tasks.run_list import status

    one = status(run)
    heads = {
        "recipe": one.recipe,
        "state": one.state if one.fault is None else f"{one.state}: {one.fault}",
        "step": f"{one.step} of {one.max_steps}",
        "loss": _figure(one.loss),
        "epsilon": _epsilon(one.epsilon),
        "checkpoints": ", ".join(f"{step} ({size / 2**20:.3g} MiB)" for step, size in one.checkpoints) or "-",
        "samples": ", ".join(one.samples) or "-",
        "metrics": ", ".join(f"{name} {value:.5g}" for name, value in one.metrics.items()) or "-",
    }
    lives = [(_life(life)) for life in one.lives]
    emit(
        one.document(),
        Group(
            "\n".join(f"{name:<12}{value}" for name, value in heads.items()),
            "",
            table(("STARTED", "STEPS", "SECONDS", "DEVICE", "GENTOOL"), lives),
        ),
        json,
    )


def _life(life: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """One start of a run; one that was killed did not get to say where it stopped."""
    seconds = life.get("seconds")
    return (
        str(life.get("time", "-")),
        f"{life['from_step']} to {life.get('to_step', '?')}",
        "-" if seconds is None else f"{seconds:.1f}",
        str(life.get("device", "-")),
        str(life.get("gentool", "-")),
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def _epsilon(value: float | None) -> str:
    from gentool.privacy.statement import rounded_up

    return "-" if value is None else str(rounded_up(value, 4))
