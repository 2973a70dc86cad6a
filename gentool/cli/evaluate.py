"""`gentool evaluate`: a run or a samples file against the data it should look like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gentool.cli.options import MAX_SEED, check_report, optional
from gentool.cli.output import Json, Quiet, emit, note, table

app = typer.Typer(add_completion=False)


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(metavar="RUN|SAMPLES", help="A run folder, or a samples file.")],
    reference: Annotated[
        str | None,
        optional(
            metavar="DATA",
            help='A data set by name or path, options after it: "mnist pad=32" (default: the run\'s own).',
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        optional(metavar="NAME", help="A metric; may be repeated. See docs/metrics.md."),
    ] = None,
    features: Annotated[
        str | None,
        optional(metavar="NAME", help="classifier, pixels, values, clouds or inception."),
    ] = None,
    classifier: Annotated[
        str | None,
        optional(
            metavar="RUN", help="A classifier of yours as judge, instead of one trained on the reference."
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        optional(metavar="METRIC.KEY=VALUE", help="An option of a metric: downstream.epochs=20"),
    ] = None,
    count: Annotated[
        int | None,
        optional("-n", "--count", min=2, metavar="N", help="Samples to judge."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, metavar="S", help="Of the samples and of random subsets.")
    ] = 0,
    report: Annotated[
        Path | None,
        optional(metavar="FILE.html", help="Where the report goes (a run's: its report.html)."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge samples: FID, KID, precision and recall, label accuracy and more, with an HTML report.

    A run draws its samples first; a classifier is judged on held-out data instead. Every figure is told with its
    extractor, reference and count: figures of different extractors must not be compared.
    """
    from gentool.cli.progress import progress
    from gentool.recipes.overrides import parse_pairs
    from gentool.tasks.evaluate import evaluate as work
    from gentool.tasks.evaluation.report import write_report

    if report is not None:
        check_report(report)
    with progress("evaluating", "sample", quiet) as show:
        done = work(
            target,
            reference=reference,
            metrics=tuple(metric or ()),
            features=features,
            classifier=classifier,
            options=parse_pairs(option or (), "--option"),
            count=count,
            seed=seed,
            report=show,
            say=lambda line: note(line, quiet),
        )
    if not done.main:  # a further process of several that share the sampling
        return
    page = write_report(done, target, report)
    document = done.document() | {"report": None if page is None else str(page)}
    rows = [(name.replace("-", " "), f"{value:.6g}") for name, value in done.metrics.items()]
    emit(document, table(("METRIC", "VALUE"), rows), json)
    if done.evaluation is not None:
        e = done.evaluation
        note(f"features: {e.features} ({e.extractor or e.preprocessing})", quiet)
        note(f"reference: {e.reference}, {e.reference_count} examples; {e.count} samples", quiet)
    elif done.reference is not None:
        note(f"{done.reference}: {done.count} examples", quiet)
    if page is not None:
        note(f"report: {page}", quiet)
