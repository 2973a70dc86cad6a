"""`gentool edit`: change pictures by a method; the methods are in `edit_methods`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gentool.cli.edit_methods import METHODS, choose
from gentool.cli.options import MAX_SEED, PicturesPerCall, out_option
from gentool.cli.options import optional as _option
from gentool.cli.output import Json, Quiet
from gentool.errors import UserError

app = typer.Typer(add_completion=False)


@app.command()
def edit(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")],
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT",
            help="Inversions: a picture, a folder, an .h5 or .npz, or a data set. Shapes: clouds.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        _option(metavar="NAME", help=f"{', '.join(METHODS)}. With --mask, --vector: editgan."),
    ] = None,
    out: Annotated[Path | None, out_option("As of gentool sample.")] = None,
    count: Annotated[
        int | None,
        _option(
            "--sample",
            "-n",
            min=1,
            metavar="N",
            help="Edit N samples (16), or the first N pictures of INPUT.",
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        _option(
            metavar="RUN2",
            help="steer: the classifier to please. lace: the judge. Inversions: compare what it reads.",
        ),
    ] = None,
    label: Annotated[str | None, _option(metavar="L", help="steer: the class to steer to.")] = None,
    condition: Annotated[
        str | None,
        _option(metavar="L", help="steer, lace: the model's own class labels (default: all in turn)."),
    ] = None,
    iterations: Annotated[
        int | None, _option(min=1, metavar="N", help="steer: gradients taken (20). editgan: steps (100).")
    ] = None,
    rate: Annotated[
        float | None, _option(metavar="R", help="steer: length of a move, against the noise's own (0.05).")
    ] = None,
    bound: Annotated[
        float | None,
        _option(metavar="B", help="steer: how far a value of the noise may go, in its deviations."),
    ] = None,
    keep: Annotated[
        str | None, _option(metavar="K", help="steer: states kept: all, sqrt (default), log or a number.")
    ] = None,
    formula: Annotated[
        list[str] | None,
        _option(
            metavar="F",
            help="lace: digit=7 and slant=0.7 and not thick; several are edits one after the other.",
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        _option(metavar="NAME", help="lace: ode (default), langevin, pc, rejection (exact), rejection-ode."),
    ] = None,
    temperature: Annotated[
        float | None,
        _option(metavar="T", help="lace: of Langevin's noise; 1 is exact (0.005, near the mode)."),
    ] = None,
    tolerance: Annotated[
        float | None, _option(metavar="E", help="lace: of the ODE's steps, relative and absolute (0.001).")
    ] = None,
    anchor: Annotated[
        float | None,
        _option(metavar="MU", help="lace: hold to the latent before (0.04 with several formulas)."),
    ] = None,
    anchor_logits: Annotated[
        float | None, _option(metavar="NU", help="lace: hold what else is read (0.01 with several formulas).")
    ] = None,
    allow_same_judge: Annotated[
        bool | None, _option("--allow-same-judge", help="lace: let the labeller judge its own labels.")
    ] = None,
    to_label: Annotated[
        str | None, _option(metavar="L", help="Inversions: the label to change to (default: the picture's).")
    ] = None,
    from_label: Annotated[
        str | None,
        _option(metavar="L", help="Inversions: what the picture is (default: its label, else none)."),
    ] = None,
    scale: Annotated[
        str | None,
        _option(
            metavar="W[,W]",
            help="Inversions: guidance of the edit (1: none). editgan: the vector (0.5,1,1.5; 1).",
        ),
    ] = None,
    from_scale: Annotated[
        float | None, _option(metavar="W", help="Inversions: guidance of the inversion (1: none).")
    ] = None,
    skip: Annotated[
        int | None,
        _option(metavar="K", help="Inversions: steps left out; more keeps more (ddpm: 36 of 100; ddim: 0)."),
    ] = None,
    train: Annotated[
        bool | None, _option("--train", help="Inversions: the training part of a data set, not its test.")
    ] = None,
    resize: Annotated[
        bool | None, _option("--resize", help="Inversions: bring pictures to the model's size and back.")
    ] = None,
    repeat_channels: Annotated[
        bool | None, _option("--repeat-channels", help="Inversions: repeat gray pictures to RGB.")
    ] = None,
    mask: Annotated[
        Path | None,
        _option(
            metavar="PNG", help="editgan: the label map as it should be, its pixels' values the classes."
        ),
    ] = None,
    relabel: Annotated[
        list[str] | None,
        _option(metavar="A=B", help="editgan: in place of a mask, all of class A becomes B."),
    ] = None,
    vector: Annotated[
        Path | None, _option(metavar="FILE", help="editgan: apply an editing vector, --scale times.")
    ] = None,
    save_vector: Annotated[
        Path | None, _option(metavar="FILE", help="editgan: keep the edit as a vector (.safetensors).")
    ] = None,
    save_codes: Annotated[
        Path | None,
        _option(metavar="DIR", help="editgan: keep each picture's latents, and its label map to repaint."),
    ] = None,
    layers: Annotated[
        list[str] | None,
        _option(
            metavar="A-B",
            help="editgan: layers of W+ that an edit may change (0-3,6). lace: those of an attribute, NAME=A-B (all).",
        ),
    ] = None,
    refine: Annotated[
        int | None, _option(min=0, metavar="N", help="editgan: steps that rid a vector of side effects (0).")
    ] = None,
    invert_steps: Annotated[
        int | None, _option(min=0, metavar="N", help="editgan: steps of an inversion (100).")
    ] = None,
    invert_from: Annotated[
        str | None,
        _option(metavar="NAME", help="editgan: inversions start at the encoder's codes (default), or mean."),
    ] = None,
    invert_noise: Annotated[
        float | None,
        _option(metavar="W", help="editgan: invert the layers' noise too, its regulariser of this weight."),
    ] = None,
    region: Annotated[
        str | None,
        _option(
            metavar="NAME",
            help="editgan: what may change: painted (where labels differ; default), classes (all of theirs).",
        ),
    ] = None,
    widen: Annotated[
        int | None, _option(metavar="N", help="editgan: pixels by which that is widened (3).")
    ] = None,
    paste: Annotated[
        bool | None, _option("--paste", help="editgan: put the region alone back into the photo.")
    ] = None,
    frames: Annotated[
        int | None, _option(metavar="N", help="interpolate: shapes from end to end (8).")
    ] = None,
    freeze: Annotated[
        str | None,
        _option(metavar="NAME", help="interpolate: the latent that stays as at the start: global or points."),
    ] = None,
    tau: Annotated[
        str | None,
        _option(
            metavar="T[,T]", help="diffuse-denoise: level of 1000, of the global latent and the points (200)."
        ),
    ] = None,
    variants: Annotated[
        int | None, _option(metavar="N", help="diffuse-denoise: variations of each cloud (7).")
    ] = None,
    change: Annotated[
        list[str] | None,
        _option(
            "--set",
            metavar="KEY=VALUE",
            help="A key of the recipe's sample block: steps=20. lace: a constant, as gamma=20.",
        ),
    ] = None,
    seed: Annotated[
        int | None, _option(min=0, max=MAX_SEED, metavar="S", help="Fixes every picture's noise.")
    ] = None,
    batch_size: PicturesPerCall = 16,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Edit pictures, and show them before and after.

    steer moves the noise that samples start from up the gradient of a classifier's log probability, taken exactly
    through the whole sampler. ddpm-inversion takes a real picture apart into the noise of an ancestral sampler, and
    draws it again under another label or guidance; ddim-inversion does so with the deterministic one. lace leads the
    latents of a generator to a formula over attributes that classifiers of the latents know. editgan changes a
    picture by repainting its label map. interpolate and diffuse-denoise make shapes between two clouds of points, and
    variations of one.

    Beside OUT lies, of pictures, a panel, before above after. An option that a method does not read is refused.
    """
    given = {key: value for key, value in ctx.params.items() if value not in (None, [], ())}
    if method is None:
        if not given.keys() & {"mask", "relabel", "vector", "save_codes"}:
            raise UserError(f"is missing (there are: {', '.join(METHODS)})", "--method")
        method = "editgan"
    choose(method, given).run(ctx.params)
