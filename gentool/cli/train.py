"""`gentool train`: from a recipe to a run folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gentool.cli.options import Devices, Nodes, RecipeSource, optional
from gentool.cli.output import Json, Quiet, emit, note
from gentool.errors import UserError
from gentool.privacy.statement import rounded_up

if TYPE_CHECKING:
    from gentool.tasks.training.dryrun import DryRun
    from gentool.tasks.training.resume import Stage

app = typer.Typer(add_completion=False)


@app.command()
def train(
    recipe: RecipeSource,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Overrides: trainer.max_steps=10 optimizer.lr=1e-4", show_default=False
        ),
    ] = None,
    run_dir: Annotated[
        Path | None,
        optional(metavar="DIR", help="The run folder itself (default: runs/RECIPE/TIME-ID)."),
    ] = None,
    resume: Annotated[
        str | None,
        optional(
            metavar="auto|RUN", help="Go on from the newest good state; auto starts when there is none."
        ),
    ] = None,
    devices: Devices = None,
    nodes: Nodes = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print every value with its origin, the model's size and speed; write nothing."
        ),
    ] = False,
    allow_change: Annotated[
        bool, typer.Option("--allow-change", help="Resume although the recipe differs from the run's.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a model; prints the run folder as its last line, so that RUN=$(gentool train r.yaml) works.

    The same line with --resume auto can be repeated for ever: it goes on where a killed run stopped, and does nothing
    once the run is complete. SIGTERM, SIGUSR1 and Ctrl-C save at the next step (exit codes 75, 75, 130).
    """
    extra = [
        f"trainer.{key}={value}"
        for key, value in (("devices", devices), ("nodes", nodes))
        if value is not None
    ]
    changes = [*(overrides or []), *extra]
    if resume not in (None, "auto") and run_dir is not None:
        raise UserError("--resume RUN names the folder already; leave --run-dir out")
    if allow_change and resume is None:
        raise UserError(
            "--allow-change is about a run that is gone on with; add --resume auto or --resume RUN"
        )
    if dry_run:
        from gentool.tasks.training.resume import stage

        at = stage(recipe, changes, run_dir=run_dir, resume=resume, allow_change=allow_change)
        _dry_run(recipe, changes, at, json)
        return
    from gentool.cli.progress import progress
    from gentool.tasks.train import train as work

    with progress("training", "step", quiet) as report:
        done = work(
            recipe,
            changes,
            run_dir=run_dir,
            resume=resume,
            allow_change=allow_change,
            on_step=report,
            say=lambda line: note(line, quiet),
        )
    if not done.main:  # a further process of a distributed run
        return
    result = {"run": str(done.run), "steps": done.steps, "seconds": round(done.seconds, 3), "loss": done.loss}
    result["memory_bytes"] = done.memory
    if done.epsilon is not None:
        result["epsilon"] = done.epsilon
    loss = "" if done.loss is None else f", loss {done.loss:.6g}"
    spent = "" if done.epsilon is None else f", epsilon {rounded_up(done.epsilon, 4)}"
    note(f"{done.steps} steps in {done.seconds:.1f} s{loss}{spent}", quiet)
    speed = "" if done.images_per_second is None else f"{done.images_per_second:.4g} images/s, "
    note(
        f"{speed}{done.memory / 2**30:.2f} GiB at most; gentool runs show {shlex.quote(str(done.run))}", quiet
    )
    emit(result, str(done.run), json)


def _dry_run(recipe: str, overrides: list[str], at: Stage | None, json: bool) -> None:
    from gentool.tasks.training.dryrun import dry_run

    found = dry_run(recipe, overrides)
    result = {
        "family": found.family,
        "parameters": found.parameters,
        "steps_per_second": found.steps_per_second,
        "memory_bytes": found.memory_bytes,
        "processes": found.processes,
        "communication_bytes": found.communication_bytes,
        "measured_batch": found.measured_batch,
        "device": found.device,
        "privacy": None if found.plan is None else found.plan.document(),
        "epsilon": found.epsilon,
        "run": None if at is None else str(at.run),
        "step": 0 if at is None else at.step,
        "values": [{"key": key, "value": value, "origin": origin} for key, value, origin in found.values()],
    }
    if json:
        emit(result, "", True)
        return
    _print_dry_run(found, at)


def _shared(found: DryRun) -> str:
    sent = f"{found.communication_bytes / 2**30:.3g} GiB sent and received by each a step"
    return f"devices     {found.processes}: memory is that of each, speed without communication; {sent}"


def _print_dry_run(found: DryRun, at: Stage | None) -> None:
    from rich.console import Group

    from gentool.cli.output import table

    modules = ", ".join(f"{name} {count:,}" for name, count in found.parameters["by_module"].items())
    emit(
        {},
        Group(
            table(("KEY", "VALUE", "FROM"), found.values()),
            f"\nfamily      {found.family}",
            f"parameters  {found.parameters['total']:,} ({modules})",
            f"memory      {found.memory_bytes / 2**30:.2f} GiB for weights, gradients, optimiser, EMA and activations",
            f"speed       {found.steps_per_second:.3g} steps/s on {found.device}, "
            f"timed at batch {found.measured_batch} and scaled",
            *([] if found.processes == 1 else [_shared(found)]),
            *([] if at is None else [f"run         {at.run}, at step {at.step} of {at.steps}"]),
            *([] if found.plan is None else [*found.plan.lines(), found.plan.outcome(found.before)]),
        ),
        False,
    )
