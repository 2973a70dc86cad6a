"""`gentool edit`: change pictures of a run by a method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gentool.cli.output import Json, Quiet, emit, note
from gentool.errors import UserError, did_you_mean

app = typer.Typer(add_completion=False)

METHODS = ("steer",)


@app.command()
def edit(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder of a diffusion model.")],
    method: Annotated[str, typer.Option(metavar="NAME", help="steer: by a classifier's gradient.")],
    classifier: Annotated[str, typer.Option(metavar="RUN2", help="The classifier's run.")],
    label: Annotated[str, typer.Option(metavar="L", help="The class to steer to, by number or name.")],
    count: Annotated[
        int, typer.Option("--sample", min=1, metavar="N", help="Edit N samples of the run.")
    ] = 16,
    condition: Annotated[
        str | None,
        typer.Option(
            metavar="L",
            help="The model's own class labels (default: all in turn).",
            show_default=False,
        ),
    ] = None,
    iterations: Annotated[int, typer.Option(min=1, metavar="N", help="Gradients taken.")] = 20,
    rate: Annotated[
        float, typer.Option(metavar="R", help="Length of a move, against the noise's own.")
    ] = 0.05,
    bound: Annotated[
        float | None,
        typer.Option(
            metavar="B",
            help="How far a value of the noise may go, in standard deviations.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        str, typer.Option(metavar="K", help="States kept for the gradient: all, sqrt, log or a number.")
    ] = "sqrt",
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A key of the recipe's sample block: solver=ddim, steps=20.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="S", help="Fixes every sample's noise.", show_default=False)
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, metavar="B", help="Samples per network call.")] = 16,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="OUT", help="As of gentool sample.", show_default=False),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Edit samples of a run and show them before and after.

    steer moves the noise that samples start from up the gradient of a classifier's log probability, taken exactly
    through the whole sampler. Beside OUT lies a panel, before above after.
    """
    if method not in METHODS:
        raise UserError(
            f"unknown method {method!r}{did_you_mean(method, METHODS)} (there are: {', '.join(METHODS)})",
            "--method",
        )
    from gentool.cli.progress import progress
    from gentool.tasks.steer import Steering, steer

    with progress("steering", "sample", quiet) as report:
        done = steer(
            run,
            classifier=classifier,
            label=label,
            count=count,
            condition=condition,
            seed=seed,
            out=out,
            how=Steering(iterations, rate, bound, _keep(keep)),
            changes=change or (),
            batch_size=batch_size,
            report=report,
            say=lambda line: note(line, quiet),
        )
    said = [sum(k == done.label for k in side) for side in (done.read_before, done.read_after)]
    means = [sum(side) / done.count for side in (done.before, done.after)]
    note(f"panel: {done.panel}", quiet)
    note(f"read as {done.label}: {said[0]} of {done.count} before, {said[1]} after", quiet)
    note(f"mean log probability: {means[0]:.4g} before, {means[1]:.4g} after", quiet)
    emit(done.document(), str(done.path), json)


def _keep(text: str) -> str | int:
    if text in ("all", "sqrt", "log"):
        return text
    if text.isdecimal():
        return int(text)
    raise UserError(f"expected all, sqrt, log or a number, not {text!r}", "--keep")
