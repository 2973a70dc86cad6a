"""gentool sample --compare: the same noise through several solvers; one picture and one table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gentool.data import open_set, parse_source
from gentool.diffusion.solvers.catalog import GRIDS, SOLVERS
from gentool.diffusion.solvers.core import build
from gentool.errors import UserError
from gentool.metrics.cache import default_folder
from gentool.metrics.catalog import plan
from gentool.metrics.evaluate import evaluate
from gentool.metrics.images import ImageSet, as_images
from gentool.recipes.schema import Sample
from gentool.runs.atomic import atomic_write, check_writable, write_json
from gentool.runs.folder import told_apart
from gentool.runs.pictures import sheet
from gentool.tasks.model.labels import in_turn, label_cycle
from gentool.tasks.model.load import best_device, load_run
from gentool.tasks.sampling.draw import (
    OF_ANOTHER_SOLVER,
    OWN_STEPS,
    Job,
    as_kept,
    draw_rows,
    has_own_steps,
    load_guide,
    named_changes,
)
from gentool.training.module import GenModule
from gentool.training.sampling import Guide
from gentool.training.watching import Report, Say, unreported, unsaid

FINE_STEPS = 128
"""Steps of the trajectory that all others are held against."""
FINE_SOLVER, FINE_GRID = "edm", "log-snr"
"""Heun in sigma, 255 or 256 calls; where a model cannot use it, the first deterministic solver of the comparison."""
COLUMNS = 12
"""At most this many samples of each row are in the picture."""
RANGE = ("sigma_max", "sigma_min", "t_max", "t_min")
"""Grid options that move the ends of a trajectory, which the reference then shares."""


@dataclass(frozen=True)
class Row:
    """One solver at one number of steps.

    Attributes:
        nfe: network calls per sample.
        seconds: wall time of all samples.
        error: root mean square over values (in units of [-1, 1] pixels) to where the fine reference ends; None for
            solvers that draw noise, or without a reference.
        fid: Frechet distance of all samples to the data asked for; None without any.
    """

    solver: str
    steps: int
    nfe: float
    seconds: float
    error: float | None
    fid: float | None


@dataclass(frozen=True)
class Compared:
    """`picture` is None for data that are not images; `reference` says what the errors are measured to."""

    rows: list[Row]
    picture: Path | None
    table: Path
    reference: str | None
    count: int
    seed: int

    def document(self) -> dict[str, Any]:
        return asdict(self) | {
            "picture": None if self.picture is None else str(self.picture),
            "table": str(self.table),
        }


def compare(
    path: Path | str,
    solvers: Sequence[str],
    steps: Sequence[int],
    *,
    count: int | None = None,
    label: str | None = None,
    seed: int | None = None,
    out: Path | None = None,
    classifier: Path | str | None = None,
    reference: str | None = None,
    settings: Mapping[str, Any] | None = None,
    changes: Sequence[str] = (),
    report: Report = unreported,
    say: Say = unsaid,
) -> Compared:
    """Draws the same `count` samples with every solver at every number of steps, and writes picture and table.

    Each solver takes its own grid and default options, but for what `settings` and `changes` ask of all; the solver
    that the recipe names is used as the recipe says.

    Args:
        steps: of each solver's grid; none: what the recipe says.
        out: the picture (.png); the table lies beside it, as .json. None: in the run's samples folder.
        reference: data by name or path, for the Frechet distance.
        settings, changes, label, seed, classifier: as `tasks.sample.sample`.

    Raises:
        UserError: a solver that is unknown or not for this model, and all that `sample` refuses; before any work.
    """
    run, resolved, module = load_run(path, named_changes(settings, changes))
    chosen: Sample = resolved.recipe.sample
    count = min(chosen.count, COLUMNS) if count is None else count
    seed = resolved.recipe.seed if seed is None else seed
    usable = module.usable_solvers()
    for name in solvers:
        if reason := usable[SOLVERS.check(name)]:
            raise UserError(f"{name}: {reason}", "--compare")
    if classifier is not None and "classifier" not in chosen.guidance:
        raise UserError("--classifier: no guidance rule asks it; add --guidance classifier=1")
    asked = {*(settings or {}), *(change.partition("=")[0].partition(".")[0] for change in changes)}
    runs = [each(chosen, name, number, asked) for name in solvers for number in steps or (chosen.steps,)]
    device = best_device()
    job = Job(str(run.path), chosen, seed, None, None if classifier is None else str(classifier))
    guide = load_guide(job, device)
    job = replace(job, labels=label_cycle(label, module, guide))
    for one in runs:
        for line in module.check_request(one, guide):
            say(f"{one.solver}: {line}")
    for name in solvers if steps else ():
        if has_own_steps(name):
            say(OWN_STEPS.format(name))
    judge = None if reference is None else Judge(reference, resolved.recipe.evaluate.features, seed)
    differing = told_apart(chosen.model_dump_json(), list(steps), job.labels, job.classifier, reference)
    picture = out or run.samples / f"compare-{'-'.join(solvers)}-seed{seed}-n{count}-{differing}.png"
    if picture.suffix.lower() != ".png":
        raise UserError("a comparison is a picture: name a .png", str(picture))
    check_writable(picture.parent)

    state_parts = 2 if "velocity" in module.sampling_means() else 1
    noisy = [build(one.solver, one.options, state_parts).stochastic for one in runs]
    fine = finest(solvers, usable, state_parts)
    ends = sorted({end_of(one) for one, random in zip(runs, noisy) if not random}) if fine else []
    artist = Artist(job, module.to(device), guide, count, device, report, len(runs) + len(ends))
    targets = {end: artist(to_the_end(str(fine), chosen, end))[0] for end in ends}
    rows, pictures = [], []
    for one, random in zip(runs, noisy):
        started = time.perf_counter()
        x, nfe = artist(one)
        seconds = time.perf_counter() - started
        error = None
        if fine and not random:
            error = float((x.double() - targets[end_of(one)].double()).square().mean().sqrt())
        kept = as_kept(x, module.spec.kind)
        fid = None if judge is None else judge(kept, artist.labels())
        rows.append(Row(one.solver, one.steps, nfe, round(seconds, 4), error, fid))
        pictures.append(kept[:COLUMNS])
    told = f"{fine}, {FINE_STEPS} steps from the same noise" if fine else None
    table = picture.with_suffix(".json")
    if module.spec.kind == "image":
        names = [f"{row.solver} {row.steps}" for row in rows]
        page = sheet(np.concatenate(pictures), len(pictures[0]), names)
        with atomic_write(picture) as scratch:
            page.save(scratch, format="png")
        result = Compared(rows, picture, table, told, count, seed)
    else:
        result = Compared(rows, None, table, told, count, seed)
    write_json(table, result.document())
    return result


def each(chosen: Sample, solver: str, steps: int, asked: Set[str]) -> Sample:
    """The settings of one row: what the recipe says of its own solver is not for the others."""
    changed: dict[str, Any] = {"solver": solver, "steps": steps}
    if solver != chosen.solver:
        changed |= {key: value for key, value in OF_ANOTHER_SOLVER.items() if key not in asked}
    return chosen.model_copy(update=changed)


def end_of(settings: Sample) -> str:
    """Where a trajectory ends: `zero`, at x0, or `t-min`, at the least noise of the range."""
    if settings.denoise:
        return "zero"
    grid = settings.grid or SOLVERS.get(settings.solver).grid
    return str(settings.grid_options.get("final") or GRIDS.get(grid).final)


def finest(solvers: Sequence[str], usable: Mapping[str, str | None], state_parts: int) -> str | None:
    """The solver of the reference trajectory, or None where a model has no deterministic one."""
    for name in (FINE_SOLVER, *solvers):
        if usable[name] is None and not build(name, None, state_parts).stochastic:
            return name
    return None


def to_the_end(solver: str, chosen: Sample, end: str) -> Sample:
    """The settings of the reference trajectory: the same guidance and range, many steps."""
    ends = {key: value for key, value in chosen.grid_options.items() if key in RANGE}
    return chosen.model_copy(
        update={
            "solver": solver,
            "steps": FINE_STEPS,
            "options": {},
            "grid": FINE_GRID if solver == FINE_SOLVER else None,
            "grid_options": {**ends, "final": end},
            "afs": False,
            "denoise": False,
            "time_shift": None,
        }
    )


class Artist:
    """Draws the same samples again and again, with whatever settings."""

    def __init__(
        self,
        job: Job,
        module: GenModule,
        guide: Guide | None,
        count: int,
        device: torch.device,
        report: Report,
        times: int,
    ) -> None:
        self.job, self.module, self.guide, self.device = job, module, guide, device
        self.count, self.report, self.total, self.done = count, report, times * count, 0

    def __call__(self, settings: Sample) -> tuple[Tensor, float]:
        """Samples (count, ...) in model space on the CPU, and network calls per sample."""
        parts, calls = [], 0.0
        for start in range(0, self.count, settings.batch_size):
            span = (start, min(start + settings.batch_size, self.count))
            drawn = draw_rows(
                replace(self.job, settings=settings), self.module, self.guide, span, self.device
            )
            parts.append(drawn.x.cpu())
            calls += drawn.nfe * len(drawn.x)
            self.done += len(drawn.x)
            self.report(self.done, self.total, {})
        return torch.cat(parts), calls / self.count

    def labels(self) -> np.ndarray | None:
        """(count,) of the samples, or None."""
        if self.job.labels is None:
            return None
        return in_turn(self.job.labels, range(self.count)).numpy()


class Judge:
    """Frechet distance to the training part of a data set, in the features that the recipe evaluates with.

    Raises:
        UserError: no such data, or features that do not fit.
    """

    def __init__(self, reference: str, features: str, seed: int) -> None:
        plan(["fid"], features)
        self.features, self.seed = features, seed
        config = parse_source(reference)
        self.data = ImageSet(open_set(config, "train"), config.name)

    def __call__(self, samples: np.ndarray, labels: np.ndarray | None) -> float:
        found = evaluate(
            as_images(samples, labels),
            self.data,
            ["fid"],
            self.features,
            cache=default_folder(),
            device=best_device(),
            seed=self.seed,
        )
        return found.metrics["fid"]
