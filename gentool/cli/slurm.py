"""`gentool slurm`: a training, and what follows it, as jobs for a Slurm cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gentool.cli.options import Devices, Nodes, RecipeSource, optional
from gentool.cli.output import Json, emit

app = typer.Typer(add_completion=False)


@app.command()
def slurm(
    recipe: RecipeSource,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Overrides, as for train.", show_default=False),
    ] = None,
    then: Annotated[
        str | None,
        optional(
            metavar="sample,evaluate",
            help="Jobs on the run folder that start when the one before has ended well.",
        ),
    ] = None,
    nodes: Nodes = None,
    devices: Devices = None,
    array: Annotated[
        int | None,
        optional(min=1, metavar="N", help="Train N seeds, each in a run folder of its own."),
    ] = None,
    time: Annotated[
        str | None,
        optional(metavar="LIMIT", help="Time limit of each job: 90, 2:00:00, 1-12:00:00."),
    ] = None,
    partition: Annotated[str | None, optional(metavar="NAME")] = None,
    account: Annotated[str | None, optional(metavar="NAME")] = None,
    mem: Annotated[str | None, optional(metavar="SIZE", help="Memory per node: 64G.")] = None,
    cpus: Annotated[int | None, optional(min=1, metavar="N", help="Cores per process.")] = None,
    grace: Annotated[
        int,
        typer.Option(
            min=1,
            max=65535,
            metavar="SECONDS",
            help="How long before the time limit training saves and requeues.",
        ),
    ] = 120,
    setup: Annotated[
        list[str] | None,
        optional(
            metavar="LINE",
            help="A line of shell before the work: 'source .venv/bin/activate'; may be repeated.",
        ),
    ] = None,
    sbatch: Annotated[
        list[str] | None,
        optional(metavar="KEY[=VALUE]", help="Any other option of sbatch: qos=high; may be repeated."),
    ] = None,
    run_dir: Annotated[
        Path | None,
        optional(metavar="DIR", help="The run folder (default: runs/RECIPE/slurm-JOB)."),
    ] = None,
    json: Json = False,
) -> None:
    """Print an sbatch script that trains a recipe through time limits and preemption.

    gentool slurm RECIPE | sbatch submits it. With --then it is a shell script that submits every job of the pipeline:
    gentool slurm RECIPE --then sample,evaluate | bash.
    """
    from gentool.tasks.slurm import Cluster, script

    given = (("devices", devices), ("nodes", nodes))
    changes = [f"trainer.{key}={value}" for key, value in given if value is not None]
    commands = [] if then is None else [name.strip() for name in then.split(",")]
    text = script(
        recipe,
        [*(overrides or []), *changes],
        run_dir=None if run_dir is None else str(run_dir),
        then=commands,
        cluster=Cluster(
            time, partition, account, mem, cpus, array, grace, tuple(setup or ()), tuple(sbatch or ())
        ),
    )
    emit({"script": text, "jobs": ["train", *commands]}, text.rstrip("\n"), json)
