"""The methods of `gentool edit`: what each reads of the command line, and what it says when it is done.

A method is an entry of `METHODS` and a task module; the command knows nothing else about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gentool.cli.output import emit, note
from gentool.errors import UserError, did_you_mean

Given = Mapping[str, Any]
"""The command's parameters by name; None where an option was not given."""
SHARED = frozenset(
    {"run", "source", "method", "out", "seed", "batch_size", "count", "classifier", "json", "quiet"}
)


@dataclass(frozen=True)
class Method:
    """One way of editing.

    Attributes:
        summary: one line.
        run: parses, calls the task, and prints.
        options: the parameters it reads beside `SHARED`.
        source: whether INPUT is asked for; if not it is refused; None takes it or does without.
        required: options that it cannot do without.
    """

    summary: str
    run: Callable[[Given], None]
    options: frozenset[str]
    source: bool | None = False
    required: tuple[str, ...] = ()


def choose(name: str, given: Given) -> Method:
    """The method of this name, after checking that it reads what was given.

    Args:
        given: what stands on the command line.

    Raises:
        UserError: unknown, an option that it would ignore, or one that it lacks.
    """
    if name not in METHODS:
        raise UserError(
            f"unknown method {name!r}{did_you_mean(name, list(METHODS))} (there are: {', '.join(METHODS)})",
            "--method",
        )
    method = METHODS[name]
    for key in given:
        if key not in SHARED | method.options:
            readers = [other for other, m in METHODS.items() if key in m.options]
            raise UserError(f"{name} does not read it; it is for {', '.join(readers)}", flag(key))
    for key in method.required:
        if key not in given:
            raise UserError(f"{name} needs it", flag(key))
    if method.source and "source" not in given:
        raise UserError(
            f"{name} edits pictures: name a picture, a folder, an .h5 or .npz, or a data set after RUN"
        )
    if method.source is False and "source" in given:
        raise UserError(
            f"{name} edits samples of the run, not a picture, which would have to be inverted to a latent first: leave "
            f"out {given['source']!r}"
        )
    return method


def flag(key: str) -> str:
    """How a parameter is written on the command line."""
    return {"change": "--set", "count": "--sample", "source": "INPUT"}.get(key, "--" + key.replace("_", "-"))


def _steer(given: Given) -> None:
    from gentool.cli.progress import progress
    from gentool.tasks.steer import Steering, steer

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


def _invert(given: Given) -> None:
    from gentool.cli.progress import progress
    from gentool.tasks.invert import Settings, invert

    quiet = given["quiet"]
    scale, from_scale = (1.0 if given[key] is None else given[key] for key in ("scale", "from_scale"))
    with progress("editing", "picture", quiet) as report:
        done = invert(
            given["run"],
            given["source"],
            given["method"],
            settings=Settings(given["to_label"], given["from_label"], scale, from_scale, given["skip"]),
            changes=given["change"] or (),
            out=given["out"],
            seed=given["seed"] or 0,
            count=given["count"],
            split="train" if given["train"] else "test",
            classifier=given["classifier"],
            resize=bool(given["resize"]),
            repeat_channels=bool(given["repeat_channels"]),
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


def _clouds(given: Given) -> None:
    from gentool.cli.progress import progress
    from gentool.tasks.cloud_edit import edit_clouds

    quiet = given["quiet"]
    if given["classifier"] is not None:
        raise UserError("classifiers read pictures, and these are clouds of points", "--classifier")
    chosen = {key: given[key] for key in ("frames", "variants") if given[key] is not None}
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


def _lace(given: Given) -> None:
    from dataclasses import replace

    from gentool.cli.progress import progress
    from gentool.families.lace.control import Anchors
    from gentool.families.lace.samplers import Settings
    from gentool.tasks.lace import How, edit

    quiet, settings = given["quiet"], Settings()
    if given["temperature"] is not None:
        settings = replace(settings, temperature=given["temperature"])
    if given["tolerance"] is not None:
        settings = replace(settings, rtol=given["tolerance"], atol=given["tolerance"])
    weights = {"near": given["anchor"], "logits": given["anchor_logits"]}
    said = {key: value for key, value in weights.items() if value is not None}
    how = How(given["sampler"] or "ode", settings, anchors=replace(Anchors(), **said) if said else None)
    with progress("leading", "sample", quiet) as report:
        done = edit(
            given["run"],
            given["formula"],
            count=given["count"] or 16,
            seed=given["seed"],
            how=how,
            classifier=given["classifier"],
            allow_same_judge=bool(given["allow_same_judge"]),
            out=given["out"],
            batch_size=given["batch_size"],
            report=report,
            say=lambda line: note(line, quiet),
        )
    scores = done.scores
    note(f"panel: {done.panel}", quiet)
    for name, pair in (
        ("accuracy", scores.together),
        ("Frechet distance", scores.frechet),
        ("mean |z|", scores.norm),
    ):
        if pair is not None:
            note(f"{name}: {pair['before']:.4g} before, {pair['after']:.4g} after", quiet)
    if scores.des is not None:
        note(f"disentangled edit strength: {', '.join(f'{d:.3f}' for d in scores.des)}", quiet)
    emit(done.document(), str(done.path), given["json"])


_INVERSION = frozenset(
    {"to_label", "from_label", "scale", "from_scale", "skip", "change", "train", "resize", "repeat_channels"}
)
METHODS: dict[str, Method] = {
    "steer": Method(
        "samples led by a classifier's gradient",
        _steer,
        frozenset({"label", "condition", "iterations", "rate", "bound", "keep", "change"}),
        required=("classifier", "label"),
    ),
    "lace": Method(
        "samples of a generator led to a formula over attributes",
        _lace,
        frozenset(
            {"formula", "sampler", "temperature", "tolerance", "anchor", "anchor_logits", "allow_same_judge"}
        ),
        required=("formula",),
    ),
    "ddpm-inversion": Method(
        "real pictures under another label or guidance, exactly restored without",
        _invert,
        _INVERSION,
        source=True,
    ),
    "ddim-inversion": Method(
        "the same by the deterministic sampler run backwards", _invert, _INVERSION, source=True
    ),
    "interpolate": Method(
        "shapes (lion) from one cloud to another",
        _clouds,
        frozenset({"frames", "condition", "change"}),
        source=None,
    ),
    "diffuse-denoise": Method(
        "variations of a shape (lion), or a shape from voxels",
        _clouds,
        frozenset({"tau", "variants", "condition", "change"}),
        source=None,
    ),
}
