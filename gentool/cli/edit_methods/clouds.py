"""gentool edit --method interpolate | diffuse-denoise."""

from __future__ import annotations

from gentool.cli.edit_methods.base import Given, Method
from gentool.cli.output import emit, note
from gentool.errors import UserError


def _clouds(given: Given) -> None:
    from gentool.cli.progress import progress
    from gentool.tasks.edit.clouds import edit_clouds

    quiet = given["quiet"]
    if given["classifier"] is not None:
        raise UserError("classifiers read pictures, and these are clouds of points", "--classifier")
    chosen = {key: given[key] for key in ("frames", "freeze", "variants") if given[key] is not None}
    if given["tau"] is not None:
        chosen["tau"] = _levels(given["tau"])
    with progress("editing", "cloud", quiet) as report:
        done = edit_clouds(
            given["run"],
            given["method"],
            given["source"],
            count=given["count"],
            label=given["condition"],
            changes=given["change"] or (),
            seed=given["seed"],
            out=given["out"],
            batch_size=given["batch_size"],
            report=report,
            say=lambda line: note(line, quiet),
            **chosen,
        )
    emit(done.document(), str(done.path), given["json"])


def _levels(text: str) -> tuple[int, int]:
    """One level for both latents, or two with a comma."""
    parts = text.split(",")
    if not 1 <= len(parts) <= 2 or not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"expected a level or two with a comma (200 or 100,200), not {text!r}", "--tau")
    levels = [int(part) for part in parts]
    return levels[0], levels[-1]


INTERPOLATE = Method(
    "shapes (lion) from one cloud to another",
    _clouds,
    frozenset({"frames", "freeze", "condition", "change"}),
    source=None,
)
DIFFUSE_DENOISE = Method(
    "variations of a shape (lion), or a shape from voxels",
    _clouds,
    frozenset({"tau", "variants", "condition", "change"}),
    source=None,
)
