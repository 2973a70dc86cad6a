"""A model that draws no samples, judged by its own figures on held-out data."""

from __future__ import annotations

from collections.abc import Sequence

from gentool.data import open_set
from gentool.errors import UserError
from gentool.runs.folder import RunFolder
from gentool.tasks.evaluation.reference import reference_data
from gentool.tasks.evaluation.result import Evaluated
from gentool.tasks.model.load import best_device, load_run
from gentool.training.findings import Findings
from gentool.training.watching import Report, Say


def of_model(
    run: RunFolder,
    reference: str | None,
    metrics: Sequence[str],
    count: int | None,
    seed: int,
    report: Report,
    say: Say,
) -> Evaluated:
    """The model's own figures on the first `count` examples of the held-out split (None: all of them).

    What `study_model` adds is left out where `metrics` ask for none of it.
    """
    _, resolved, module = load_run(run.path)
    config = reference_data(reference, resolved, str(run.path))
    if count is not None:
        config = config.model_copy(update={"limit": min(count, config.limit or count)})
    held_out = open_set(config, "test")
    if (held_out.spec.shape, held_out.spec.classes) != (module.spec.shape, module.spec.classes):
        raise UserError(
            f"has examples of shape {held_out.spec.shape} in {held_out.spec.classes} classes; "
            f"the model was trained on {module.spec.shape} in {module.spec.classes}",
            config.name,
        )
    module.to(best_device())
    figures = module.evaluate_model(held_out, seed=seed, report=lambda done, total: report(done, total, {}))
    found = Findings()
    if not metrics or any(name not in figures for name in metrics):
        found = module.study_model(held_out, seed=seed)
        figures |= found.figures
    for line in found.warnings:
        say(f"warning: {line}")
    unknown = [name for name in metrics if name not in figures]
    if unknown:
        raise UserError(
            f"the family {resolved.recipe.family} has no {', '.join(unknown)} (there are: {', '.join(figures)})",
            str(run.path),
        )
    return Evaluated(
        {name: figures[name] for name in metrics or figures},
        None,
        dict(found.details),
        None,
        None,
        None,
        resolved,
        run.read_provenance(),
        f"{config.name} (held out)",
        len(held_out),
        found.pictures,
        found.warnings,
    )
