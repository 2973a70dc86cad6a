"""`gentool sample --compare`: what is printed of a comparison of solvers."""

from __future__ import annotations

from typing import Any

from gentool.cli.output import emit, note, table


def compare_solvers(
    run: str, solvers: list[str], steps: list[int], *, json: bool, quiet: bool, **how: Any
) -> None:
    """Runs the comparison; the table on standard output, where things lie on standard error."""
    from gentool.cli.progress import progress
    from gentool.tasks.sampling.compare import compare

    with progress("comparing", "sample", quiet) as report:
        done = compare(
            run,
            solvers,
            steps,
            report=report,
            say=lambda line: note(line, quiet),
            **how,
        )

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.4g}"

    fid = any(row.fid is not None for row in done.rows)
    columns = ("SOLVER", "STEPS", "NFE", "SECONDS", "ERROR", *(("FID",) if fid else ()))
    cells = [
        (
            row.solver,
            row.steps,
            f"{row.nfe:g}",
            f"{row.seconds:.2f}",
            shown(row.error),
            *((shown(row.fid),) if fid else ()),
        )
        for row in done.rows
    ]
    if done.reference:
        note(f"{done.count} samples; error: RMS to the end of {done.reference}", quiet)
    if done.picture:
        note(f"picture: {done.picture}", quiet)
    note(f"table: {done.table}", quiet)
    emit(done.document(), table(columns, cells), json)
