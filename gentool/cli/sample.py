"""`gentool sample`: from a run folder to a samples file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gentool.cli.options import MAX_SEED, optional, out_option
from gentool.cli.output import Json, Quiet, emit, note
from gentool.errors import UserError

app = typer.Typer(add_completion=False)


@app.command()
def sample(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, as `gentool train` printed it.")],
    count: Annotated[
        int | None,
        optional("-n", "--count", min=1, metavar="N", help="How many samples."),
    ] = None,
    preset: Annotated[
        str | None,
        optional(metavar="NAME", help="Start from these settings of the recipe's sample.presets."),
    ] = None,
    solver: Annotated[str | None, optional(metavar="NAME", help="See `gentool solvers list`.")] = None,
    steps: Annotated[
        str | None,
        optional(metavar="K[,K...]", help="Steps of the solver's grid; several with --compare."),
    ] = None,
    compare: Annotated[
        str | None,
        optional(
            metavar="NAME,NAME...",
            help="Draw the same noise through several solvers; one picture, one table.",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        optional(metavar="DATA", help="With --compare: data for each row's Frechet distance."),
    ] = None,
    grid: Annotated[
        str | None,
        optional(metavar="NAME", help="Step grid: karras, log-snr, power-t ..."),
    ] = None,
    option: Annotated[
        list[str] | None,
        optional(metavar="KEY=VALUE", help="An option of the solver: eta=0.5"),
    ] = None,
    guidance: Annotated[
        list[str] | None,
        optional(metavar="NAME[=SCALE]", help="A guidance rule: cfg=2, apg=4, pag=3 ..."),
    ] = None,
    classifier: Annotated[
        str | None,
        optional(metavar="RUN", help="The classifier of noisy images that --guidance classifier asks."),
    ] = None,
    threshold: Annotated[str | None, optional(metavar="RULE", help="none, static or dynamic.")] = None,
    change: Annotated[
        list[str] | None,
        optional("--set", metavar="KEY=VALUE", help="Any other key of the recipe's sample block."),
    ] = None,
    label: Annotated[
        str | None,
        optional(metavar="L", help="Class by number or name; several with commas, taken in turn."),
    ] = None,
    seed: Annotated[
        int | None, optional(min=0, max=MAX_SEED, metavar="S", help="Fixes every sample's noise.")
    ] = None,
    batch_size: Annotated[int | None, optional(min=1, metavar="B", help="Samples per network call.")] = None,
    devices: Annotated[int, typer.Option(min=1, metavar="N", help="Processes that share the work.")] = 1,
    out: Annotated[Path | None, out_option("File by its suffix (.h5 .npz .png .ply) or a folder.")] = None,
    mesh: Annotated[
        bool,
        typer.Option("--mesh", help="Clouds: write closed meshes too, in OUT-meshes (see gentool mesh)."),
    ] = False,
    mesher: Annotated[
        str | None,
        optional(metavar="RUN", help="With --mesh: as of gentool mesh."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw samples from a trained run and print where they are.

    What is not said comes from the recipe's sample block. Sample i of a seed is the same whatever the batch size or the
    number of devices. --compare draws the same samples with several solvers, holds them against a fine trajectory, and
    prints the table.
    """
    from gentool.cli.progress import progress

    numbers = _numbers(steps)
    settings = {
        "solver": solver,
        "steps": numbers[0] if len(numbers) == 1 and compare is None else None,
        "grid": grid,
        "threshold": threshold,
        "batch_size": batch_size,
        "options": _options(option) if option else None,
        "guidance": _rules(guidance) if guidance else None,
    }
    if mesher is not None and not mesh:
        raise UserError("is for --mesh", "--mesher")
    if compare is not None:
        if mesh:
            raise UserError("draws pictures of several solvers; mesh samples of one", "--compare")
        if solver is not None or option or devices > 1:
            raise UserError("takes each solver with its default options, on one device", "--compare")
        if preset is not None:
            raise UserError("a preset is of one solver; say what all are to share by --set", "--compare")
        from gentool.cli.compare import compare_solvers

        compare_solvers(
            run,
            [name.strip() for name in compare.split(",")],
            numbers,
            count=count,
            label=label,
            seed=seed,
            out=out,
            classifier=classifier,
            reference=reference,
            settings={key: value for key, value in settings.items() if value is not None},
            changes=change or (),
            json=json,
            quiet=quiet,
        )
        return
    if reference is not None:
        raise UserError("is for --compare; gentool evaluate judges samples", "--reference")
    if len(numbers) > 1:
        raise UserError("several numbers are for --compare", "--steps")
    from gentool.tasks.sample import sample as work

    with progress("sampling", "sample", quiet) as report:
        done = work(
            run,
            count=count,
            label=label,
            seed=seed,
            out=out,
            devices=devices,
            classifier=classifier,
            preset=preset,
            settings={key: value for key, value in settings.items() if value is not None},
            changes=change or (),
            mesh=mesh,
            mesher=mesher,
            report=report,
            say=lambda line: note(line, quiet),
        )
    if not done.main:  # a further process of several that sample together
        return
    note(
        f"{done.count} samples, {done.nfe:g} network calls each ({done.solver}), {done.seconds:.1f} s", quiet
    )
    result: dict[str, Any] = {
        "path": str(done.path),
        "count": done.count,
        "nfe": done.nfe,
        "seconds": round(done.seconds, 3),
        "solver": done.solver,
        "seed": done.seed,
    }
    if done.meshes is not None:
        result["meshes"] = str(done.meshes)
        note(f"meshes: {done.meshes}", quiet)
    emit(result, str(done.path), json)


def _numbers(text: str | None) -> list[int]:
    from gentool.recipes.schema import MAX_STEPS

    parts = [] if text is None else [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 20 and 0 < int(part) <= MAX_STEPS for part in parts):
        raise UserError(
            f"expected a number of steps above 0 and of at most {MAX_STEPS}, or several with commas, got {text!r}",
            "--steps",
        )
    return list(map(int, parts))


def _options(pairs: list[str]) -> dict[str, Any]:
    from gentool.recipes.overrides import parse_pairs

    return parse_pairs(pairs, "--option")


def _rules(texts: list[str]) -> dict[str, Any]:
    from gentool.diffusion.guidance.catalog import parse

    return parse(*texts)
