"""gentool edit --method lace."""

from __future__ import annotations

from gentool.cli.edit_methods.base import Given, Method
from gentool.cli.output import emit, note


def _lace(given: Given) -> None:
    from dataclasses import replace

    from gentool.cli.progress import progress
    from gentool.families.lace.control import Anchors
    from gentool.families.lace.samplers import Settings
    from gentool.tasks.edit.lace import How, edit

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
            condition=given["condition"],
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


LACE = Method(
    "samples of a generator led to a formula over attributes",
    _lace,
    frozenset(
        {
            "formula",
            "sampler",
            "temperature",
            "tolerance",
            "anchor",
            "anchor_logits",
            "allow_same_judge",
            "condition",
        }
    ),
    required=("formula",),
)
