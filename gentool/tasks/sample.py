"""gentool sample: a run folder to a samples file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gentool.errors import UserError
from gentool.runs.atomic import check_writable
from gentool.runs.folder import RunFolder, told_apart
from gentool.runs.samples import check_output, write_samples
from gentool.runs.weights import fingerprint
from gentool.tasks.model.labels import in_turn, label_cycle
from gentool.tasks.model.load import load_run, origin, stored_recipe
from gentool.tasks.sampling.draw import (
    OF_ANOTHER_SOLVER,
    OWN_STEPS,
    Job,
    Part,
    batches,
    has_own_steps,
    load_guide,
    named_changes,
)
from gentool.tasks.sampling.ranks import Ranks
from gentool.training.module import GenModule
from gentool.training.watching import Report, Say, unreported, unsaid


@dataclass(frozen=True)
class Sampled:
    """`main`: False in the further processes of several that sample together; they have handed over what they drew.
    `meshes`: the folder of the samples' meshes, where they were asked for."""

    path: Path
    count: int
    nfe: float
    seconds: float
    solver: str
    seed: int
    images: np.ndarray
    labels: np.ndarray | None
    main: bool = True
    meshes: Path | None = None


def sample(
    path: Path | str,
    *,
    count: int | None = None,
    label: str | None = None,
    seed: int | None = None,
    out: Path | None = None,
    devices: int = 1,
    classifier: Path | str | None = None,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    changes: Sequence[str] = (),
    mesh: bool = False,
    mesher: str | None = None,
    report: Report = unreported,
    say: Say = unsaid,
) -> Sampled:
    """Draws `count` samples and writes them.

    Sample i depends on the seed and i alone: not on the batch size or the number of devices (to rounding). Processes
    that srun or torchrun started together share the work by batches; rank 0 writes the one file.

    Args:
        label: a class by number or name, or several with commas, taken in turn; None takes every class in turn.
        preset: the recipe's `sample.presets` entry to start from.
        settings: what differs from the recipe's `sample:` block (or from its preset), by key. A solver other than
            that block's takes its own grid and default options, but for what is said here.
        changes: the same as `KEY=VALUE` texts, with dotted keys (`grid_options.rho=5`).
        devices: processes that share the work (one a GPU, or CPU processes).
        classifier: the run whose classifier the guidance rule `classifier` asks.
        mesh: of clouds: meshes too, in a folder beside the file.
        mesher: the run whose network makes them, as of `tasks.mesh.mesh_clouds`.
    """
    started, ranks = time.perf_counter(), Ranks.here()
    if devices > 1 and ranks.world > 1:
        raise UserError(
            f"--devices {devices}: the launcher started {ranks.world} processes already; leave it out"
        )
    stored = stored_recipe(RunFolder.open(path)).recipe.sample
    base = {} if preset is None else stored.preset(preset)
    asked = dict(settings or {})
    if "solver" in asked and asked["solver"] != base.get("solver", stored.solver):
        base |= OF_ANOTHER_SOLVER
    # the presets not taken are out: they need not fit what is said now
    overrides = ["sample.presets={}", *named_changes({**base, **asked}, changes)]
    run, resolved, module = load_run(path, overrides)
    chosen = resolved.recipe.sample
    count = chosen.count if count is None else count
    if count < 1:
        raise UserError(f"-n must be at least 1, got {count}")
    seed = resolved.recipe.seed if seed is None else seed
    if classifier is not None and "classifier" not in chosen.guidance:
        raise UserError("--classifier: no guidance rule asks it; add --guidance classifier=1")
    guiding = None if classifier is None else RunFolder.open(classifier)
    job = Job(str(run.path), chosen, seed, None, None if guiding is None else str(guiding.path))
    guide = load_guide(job, torch.device("cpu"))
    job = replace(job, labels=label_cycle(label, module, guide))
    lines = module.check_request(chosen, guide)
    if "steps" in asked and has_own_steps(chosen.solver):
        lines.append(OWN_STEPS.format(chosen.solver))
    for line in lines:
        if ranks.main:
            say(line)
    solver = module.solver_name(chosen)
    out = out or run.samples / default_name(job, solver, count)
    check_output(out, module.spec.kind)
    check_writable(out.parent)
    meshing = meshes_beside(out, module, count, mesher) if mesh else None
    parts: list[Part] = []
    with ranks.together():
        for part in batches(job, module, count, devices, ranks):
            parts.append(part)
            report(sum(len(one.samples) for one in parts), count, {})
    if not ranks.main:
        seconds, nothing = time.perf_counter() - started, np.empty((0, *module.spec.shape))
        return Sampled(out, 0, 0.0, seconds, solver, seed, nothing, None, main=False)
    images = np.concatenate([part.samples for part in parts])
    labels = None if job.labels is None else in_turn(job.labels, range(count)).numpy()
    mean_nfe = sum(part.nfe * len(part.samples) for part in parts) / count
    provenance = {
        **origin(run, resolved),
        "family": resolved.recipe.family,
        "seed": seed,
        "nfe": mean_nfe,
        "sample": chosen.model_dump_json(),
        "manifest": told(parts[0].manifest, solver),
        "data_fingerprint": run.read_provenance().get("data_fingerprint", ""),
    }
    if guiding is not None:
        provenance |= {"classifier": guiding.path.name, "classifier_sha256": fingerprint(guiding.weights)}
    write_samples(out, images, labels, provenance)
    meshes = None if meshing is None else meshing(images, labels, say)
    seconds = time.perf_counter() - started
    return Sampled(out, count, mean_nfe, seconds, solver, seed, images, labels, meshes=meshes)


def told(manifest: Mapping[str, Any], solver: str) -> dict[str, Any]:
    """A sampler's manifest as provenance keeps it: of all samples, so without `nfe`, and its orders by their runs."""
    kept = {key: value for key, value in manifest.items() if key != "nfe"}
    if "solver" in kept:  # the name that it is asked for by, not its class's
        kept["solver"] = solver
    if "orders" in kept:
        runs = [(order, len(list(same))) for order, same in groupby(kept["orders"])]
        kept["orders"] = ", ".join(f"{order} x {times}" for order, times in runs)
    return kept


def meshes_beside(
    out: Path, module: GenModule, count: int, mesher: str | None
) -> Callable[[np.ndarray, np.ndarray | None, Say], Path]:
    """What writes samples' meshes beside their file; refuses, before any work, what it could not do.

    Raises:
        UserError: no clouds, or as `tasks.mesh`.
    """
    from gentool.points.meshing import MeshOptions
    from gentool.tasks import mesh as task  # here, not above: few ask for meshes, and it loads a family

    if module.spec.kind != "points":
        raise UserError(f"--mesh is for clouds of points; these samples are {module.spec.kind} data")
    task.check_options(MeshOptions(), ".ply")
    folder = out.with_name(f"{out.stem}-meshes")
    task.check_place(folder, count)
    if mesher is not None:
        task.trained_orient(mesher, torch.device("cpu"))

    def work(clouds: np.ndarray, labels: np.ndarray | None, say: Say) -> Path:
        return task.mesh_clouds(clouds, labels, folder, source=str(out), mesher=mesher, say=say).path

    return work


def default_name(job: Job, solver: str, count: int) -> str:
    """A name that tells the settings apart: what was asked differently never replaces an earlier file."""
    asked = told_apart(job.settings.model_dump_json(), job.labels, job.classifier)
    if solver == job.settings.solver:
        solver += f"-{job.settings.steps}"
    return f"{solver}-seed{job.seed}-n{count}-{asked}.h5"
