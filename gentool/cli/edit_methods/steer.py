"""gentool edit --method steer."""

from __future__ import annotations

from gentool.cli.edit_methods.base import Given, Method
from gentool.cli.output import emit, note
from gentool.errors import UserError


def _steer(given: Given) -> None:
    from gentool.cli.progress import progress
    from gentool.tasks.edit.steer import Steering, steer

    quiet = given["quiet"]
    how = Steering(
        given["iterations"] or Steering.iterations,
        Steering.rate if given["rate"] is None else given["rate"],
        given["bound"],
        _keep(given["keep"] or "sqrt"),
    )
    with progress("steering", "sample", quiet) as report:
        done = steer(
            given["run"],
            classifier=given["classifier"],
            label=given["label"],
            count=given["count"] or 16,
            condition=given["condition"],
            seed=given["seed"],
            out=given["out"],
            how=how,
            changes=given["change"] or (),
            batch_size=given["batch_size"],
            report=report,
            say=lambda line: note(line, quiet),
        )
    said = [sum(k == done.label for k in side) for side in (done.read_before, done.read_after)]
    means = [sum(side) / done.count for side in (done.before, done.after)]
    note(f"panel: {done.panel}", quiet)
    note(f"read as {done.label}: {said[0]} of {done.count} before, {said[1]} after", quiet)
    note(f"mean log probability: {means[0]:.4g} before, {means[1]:.4g} after", quiet)
    emit(done.document(), str(done.path), given["json"])


def _keep(text: str) -> str | int:
    if text in ("all", "sqrt", "log"):
        return text
    if text.isdecimal():
        return int(text)
    raise UserError(f"expected all, sqrt, log or a number, not {text!r}", "--keep")


STEER = Method(
    "samples led by a classifier's gradient",
    _steer,
    frozenset({"label", "condition", "iterations", "rate", "bound", "keep", "change"}),
    required=("classifier", "label"),
)
