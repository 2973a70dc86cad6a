"""The part of `gentool purify` that measures robust accuracy (--attack)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gentool.cli.output import emit, note, table
from gentool.errors import UserError

if TYPE_CHECKING:
    from gentool.tasks.purification.purifier import Settings

COLUMNS = ("CLASSIFIER", "JUDGED BY", "CLEAN, 95 %", "UNDER ATTACK, 95 %")


@dataclass(frozen=True)
class Options:
    """What can be said of an attack alone; None is the default. `time_budget` is in minutes."""

    norm: str | None = None
    eps: str | None = None
    gradient: str | None = None
    surrogate_steps: int | None = None
    iterations: int | None = None
    eot: int | None = None
    restarts: int | None = None
    draws: int | None = None
    time_budget: float | None = None
    report: Path | None = None

    def refuse(self) -> None:
        """Raises a `UserError` for an option that does nothing without --attack."""
        given = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        if given:
            names = ", ".join("--" + name.replace("_", "-") for name in given)
            raise UserError(f"{names}: for --attack alone; name the attack, or leave it out")


def measure(
    attack: str,
    run: str,
    source: str,
    classifier: str | None,
    settings: Settings,
    options: Options,
    split: Literal["train", "test"],
    out: Path | None,
    count: int | None,
    seed: int,
    batch_size: int,
    json: bool,
    quiet: bool,
) -> None:
    """Attacks, judges, writes the report and prints the table."""
    from gentool.attacks.art import toolbox
    from gentool.attacks.options import DEFAULT_EPS, check_norm, choose, parse_eps
    from gentool.attacks.threat import Threat
    from gentool.cli.options import check_report
    from gentool.cli.progress import progress
    from gentool.runs.atomic import write_text
    from gentool.tasks.purification.examples import render
    from gentool.tasks.purification.robustness import Plan, default_folder, robustness, rows_of
    from gentool.tasks.purification.target import open_target

    if classifier is None:
        raise UserError("--attack: name the classifier to defend with --classifier RUN2")
    norm = check_norm(options.norm or "linf")
    threat = Threat(norm, DEFAULT_EPS[norm] if options.eps is None else parse_eps(options.eps, norm))
    choice = partial(
        choose,
        attack,
        route=options.gradient,
        iterations=options.iterations,
        eot=options.eot,
        restarts=options.restarts,
        surrogate_steps=options.surrogate_steps,
    )
    chosen = choice()  # what can be refused is, before anything is read
    if not chosen.by_gradient:
        toolbox("attacks.evasion")
    if options.time_budget is not None and not options.time_budget > 0:
        raise UserError(f"--time-budget: minutes above 0, not {options.time_budget:g}")

    def say(line: str) -> None:
        note(line, quiet)

    opened, target = open_target(run, source, classifier, settings=settings, split=split, say=say)
    plan = Plan(
        choice(defence_steps=target.purifier.steps),
        threat,
        count,
        10 if options.draws is None else options.draws,
        seed,
        batch_size,
        None if options.time_budget is None else 60 * options.time_budget,
    )
    folder = out or default_folder(opened.path, target.identity, plan, target.purifier)
    page = options.report or folder / "report.html"
    check_report(page)
    with progress("attacking", "picture", quiet) as show:
        done = robustness(target, plan, folder, report=show, say=say)
    document = done.document() | {"report": str(page)}
    cells = rows_of(document)
    write_text(page, render(f"{attack} on {opened.path.name}", document, done.pictures, cells))
    for line in document["warnings"]:
        note(f"warning: {line}", quiet)
    note(document["note"], quiet)
    note(f"report: {page}", quiet)
    emit(document, table(COLUMNS, cells), json)
