"""`gentool purify`: clean pictures with a diffusion run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gentool.cli.options import MAX_SEED, FirstCount, PicturesPerCall, optional, out_option
from gentool.cli.output import Json, Quiet, emit, note
from gentool.errors import UserError

app = typer.Typer(add_completion=False)


@app.command()
def purify(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder of a diffusion model.")],
    source: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="A picture, a folder, an .h5 or .npz, or a data set by name."),
    ],
    out: Annotated[Path | None, out_option("File by its suffix (.h5 .npz .png) or a folder.")] = None,
    method: Annotated[
        str | None,
        optional(
            metavar="NAME",
            help="vp-sde, vp-ode, ancestral, ld-sde; sde and ode for any process.  [default: sde]",
        ),
    ] = None,
    t_star: Annotated[
        float | None,
        optional(metavar="T", help="How far to diffuse, in the process's own time (VP: a fraction, as 0.1)."),
    ] = None,
    sigma_star: Annotated[
        float | None,
        optional(metavar="S", help="The same as a noise level.  [default: 0.34, t* = 0.1 of VP]"),
    ] = None,
    steps: Annotated[
        int | None,
        optional(min=1, metavar="K", help="Network calls.  [default: 100; ld-sde 10]"),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, metavar="R", help="Purify so often in a row.")] = 1,
    label: Annotated[
        str | None,
        optional(metavar="L", help="Tell a conditional model this class (default: its null label)."),
    ] = None,
    classifier: Annotated[
        str | None,
        optional(metavar="RUN2", help="Compare what this classifier reads before and after."),
    ] = None,
    count: FirstCount = None,
    train: Annotated[
        bool, typer.Option("--train", help="The training part of a data set, not its test.")
    ] = False,
    resize: Annotated[
        bool, typer.Option(help="Bring pictures to the model's size, bilinear, and back.")
    ] = False,
    repeat_channels: Annotated[bool, typer.Option(help="Repeat gray pictures to RGB.")] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, metavar="S", help="Fixes every picture's noise.")
    ] = 0,
    batch_size: PicturesPerCall = 64,
    attack: Annotated[
        str | None,
        optional(
            metavar="NAME",
            help="Measure robust accuracy: pgd apgd-ce apgd-dlr bpda surrogate transfer square autoattack.",
        ),
    ] = None,
    norm: Annotated[str | None, typer.Option(help="Attack: linf or l2.  [default: linf]")] = None,
    eps: Annotated[
        str | None,
        optional(help="Attack: radius, in [0, 1] pixels.  [default: 8/255; l2 0.5]"),
    ] = None,
    gradient: Annotated[
        str | None,
        optional(metavar="NAME", help="Attack: exact, bpda, surrogate or transfer."),
    ] = None,
    surrogate_steps: Annotated[
        int | None,
        optional(metavar="K", help="Attack: network calls of the surrogate."),
    ] = None,
    iterations: Annotated[int | None, optional(metavar="I", help="Attack: steps of a restart.")] = None,
    eot: Annotated[int | None, optional(metavar="E", help="Attack: draws averaged a gradient.")] = None,
    restarts: Annotated[int | None, optional(metavar="R", help="Attack: how often from anew.")] = None,
    draws: Annotated[
        int | None,
        typer.Option(metavar="N", help="Attack: fresh draws by which a picture is judged.  [default: 10]"),
    ] = None,
    time_budget: Annotated[
        float | None,
        optional(metavar="MINUTES", help="Attack: begin no picture after this."),
    ] = None,
    report: Annotated[
        Path | None,
        optional(metavar="FILE.html", help="Attack: the report's page."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Purify pictures: diffuse them a little, and let the model bring them back.

    Noise drowns small perturbations, and the way back restores the picture (DiffPure). Picture i of a seed is the same
    whatever its batch. Beside OUT lies a panel, before above after. What it does not promise: docs/purify.md.

    With --attack, pictures of a labelled set are attacked and judged instead (docs/robustness.md): OUT is then a
    folder, -n a random choice, and the same command goes on where it was stopped.
    """
    from gentool.cli.attack import Options, measure
    from gentool.cli.progress import progress
    from gentool.tasks.pictures.change import Intake
    from gentool.tasks.purification.purifier import Settings
    from gentool.tasks.purify import purify as work

    settings = Settings(method, t_star, sigma_star, steps, rounds, label)
    options = Options(
        norm, eps, gradient, surrogate_steps, iterations, eot, restarts, draws, time_budget, report
    )
    split: Literal["train", "test"] = "train" if train else "test"
    if attack is not None:
        if resize or repeat_channels:
            raise UserError(
                "--resize and --repeat-channels: attacks are on pictures of the model's own shape"
            )
        measure(
            attack,
            run,
            source,
            classifier,
            settings,
            options,
            split,
            out,
            count,
            seed,
            batch_size,
            json,
            quiet,
        )
        return
    options.refuse()
    with progress("purifying", "picture", quiet) as show:
        done = work(
            run,
            source,
            out=out,
            settings=settings,
            seed=seed,
            intake=Intake(split, count, classifier, resize, repeat_channels),
            batch_size=batch_size,
            report=show,
            say=lambda line: note(line, quiet),
        )
    note(f"panel: {done.panel}", quiet)
    if (read := done.readings) is not None:
        note(f"{read.changed} of {done.count} labels changed (classifier {read.run})", quiet)
        if read.right is not None:
            note(f"read right: {read.right[0]:.1%} before, {read.right[1]:.1%} after", quiet)
        if done.count == 1:
            before, after = (read.class_names[k] for k in (read.before[0], read.after[0]))
            note(f"read as {before} before, {after} after", quiet)
    emit(done.document(), str(done.path), json)
