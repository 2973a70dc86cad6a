"""report.html of a run or a samples file, and the figures in the run's model card."""

from __future__ import annotations

import os
from pathlib import Path

from gentool.metrics.report import as_picture, render
from gentool.runs.atomic import atomic_write, write_json, write_text
from gentool.runs.folder import RunFolder
from gentool.tasks.evaluation.result import Evaluated
from gentool.tasks.model.card import account_of_run, model_card
from gentool.training.metricslog import read_rows


def write_report(done: Evaluated, target: str, out: Path | None) -> Path | None:
    """Writes the report to `out`, or into the run that was judged; returns where, None when nowhere was asked for.

    A run also keeps its figures: `evaluation.json`, and a section of its model card. Pictures that the model shows of
    itself are PNGs beside the page too.
    """
    run = RunFolder(target) if (Path(target) / "recipe.yaml").is_file() else None
    rows = [] if run is None else read_rows(run)
    page = out or (None if run is None else run.report)
    if page is not None:
        name = done.resolved.name if done.resolved else Path(target).name
        pictures = done.images if done.images is not None and done.images.ndim > 2 else None
        write_text(
            page,
            render(
                name,
                summary=done.resolved.recipe.description if done.resolved else "",
                evaluations=[done.document()],
                images=pictures,
                labels=None if done.labels is None else [int(label) for label in done.labels],
                loss=[(row["step"], row["loss"]) for row in rows],
                recipe=done.resolved.text if done.resolved else "",
                provenance={k: v for k, v in done.provenance.items() if k != "recipe"},
                pictures=[(shown.pixels, shown.caption) for shown in done.pictures],
            ),
        )
        for shown in done.pictures:
            with atomic_write(page.with_name(f"{shown.name}.png")) as scratch:
                as_picture(shown.pixels).save(scratch, "PNG")
    if run is not None and done.resolved is not None:
        document = done.document()
        samples = None if done.samples is None else Path(os.path.relpath(done.samples, run.path)).as_posix()
        write_json(run.path / "evaluation.json", document | {"samples": samples})
        account = account_of_run(run, done.resolved)
        write_text(run.card, model_card(done.resolved, done.provenance, rows, document, account))
    return page
