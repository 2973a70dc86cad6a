"""gentool edit --method ddpm-inversion | ddim-inversion."""

from __future__ import annotations

from gentool.cli.edit_methods.base import Given, Method, numbers
from gentool.cli.output import emit, note


def _invert(given: Given) -> None:
    from gentool.cli.progress import progress
    from gentool.tasks.edit.invert import Settings, invert
    from gentool.tasks.pictures.change import Intake

    quiet = given["quiet"]
    scale = 1.0 if given["scale"] is None else numbers(given["scale"], "--scale", several=False)[0]
    from_scale = 1.0 if given["from_scale"] is None else given["from_scale"]
    intake = Intake(
        "train" if given["train"] else "test",
        given["count"],
        given["classifier"],
        bool(given["resize"]),
        bool(given["repeat_channels"]),
    )
    with progress("editing", "picture", quiet) as report:
        done = invert(
            given["run"],
            given["source"],
            given["method"],
            settings=Settings(given["to_label"], given["from_label"], scale, from_scale, given["skip"]),
            changes=given["change"] or (),
            out=given["out"],
            seed=given["seed"] or 0,
            intake=intake,
            batch_size=given["batch_size"],
            report=report,
            say=lambda line: note(line, quiet),
        )
    note(f"panel: {done.panel}", quiet)
    note(
        f"reconstruction error {done.reconstruction:.2g}, moved by {done.moved:.3g}, {done.nfe:g} network calls",
        quiet,
    )
    if (read := done.readings) is not None:
        note(f"{read.changed} of {done.count} labels changed (classifier {read.run})", quiet)
    emit(done.document(), str(done.path), given["json"])


_INVERSION = frozenset(
    {"to_label", "from_label", "scale", "from_scale", "skip", "change", "train", "resize", "repeat_channels"}
)
DDPM = Method(
    "real pictures under another label or guidance, exactly restored without",
    _invert,
    _INVERSION,
    source=True,
)
DDIM = Method("the same by the deterministic sampler run backwards", _invert, _INVERSION, source=True)
