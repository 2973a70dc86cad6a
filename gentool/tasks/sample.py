"""gentool sample: a run folder to a samples file."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gentool.data import to_uint8
from gentool.errors import GentoolError, UserError
from gentool.recipes.schema import Sample
from gentool.runs.atomic import check_writable
from gentool.runs.folder import RunFolder
from gentool.runs.provenance import describe_machine
from gentool.runs.samples import check_output, write_samples
from gentool.runs.weights import fingerprint
from gentool.tasks.model.labels import label_cycle
from gentool.tasks.model.load import load_run, stored_recipe
from gentool.tasks.ranks import Ranks
from gentool.training.module import GenModule
from gentool.training.sampling import Guide, SampleRequest

OnSample = Callable[[int, int], None]
"""(samples done, samples in all)."""


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


@dataclass(frozen=True)
class Job:
    """Everything a worker process needs to draw some of the samples."""

    run: str
    settings: Sample
    seed: int
    labels: tuple[int, ...] | None
    classifier: str | None = None


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
    on_sample: OnSample | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Sampled:
    """Draws `count` samples and writes them.

    Sample i depends on the seed and i alone: not on the batch size or the number of devices (to rounding). Processes
    that srun or torchrun started together share the work by batches; rank 0 writes the one file.

    Args:
        label: a class by number or name, or several with commas, taken in turn; None takes every class in turn.
        preset: the recipe's `sample.presets` entry to start from.
        settings: what differs from the recipe's `sample:` block (or from its preset), by key.
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
    base = {} if preset is None else stored_recipe(RunFolder.open(path)).recipe.sample.preset(preset)
    # the presets not taken are out: they need not fit what is said now
    overrides = ["sample.presets={}", *named_changes({**base, **(settings or {})}, changes)]
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
    for line in module.check_request(chosen, guide):
        if ranks.main:
            say(line)
    solver = module.solver_name(chosen)
    out = out or run.samples / default_name(job, solver, count)
    check_output(out, module.spec.kind)
    check_writable(out.parent)
    meshing = meshes_beside(out, module, count, mesher) if mesh else None
    arrays, nfe = [], []
    with ranks.together():
        for part, calls in _work(job, module, count, devices, ranks):
            arrays.append(part)
            nfe.append(calls * len(part))
            if on_sample is not None:
                on_sample(sum(map(len, arrays)), count)
    if not ranks.main:
        seconds, nothing = time.perf_counter() - started, np.empty((0, *module.spec.shape))
        return Sampled(out, 0, 0.0, seconds, solver, seed, nothing, None, main=False)
    images = np.concatenate(arrays)
    labels = None if job.labels is None else np.array([job.labels[i % len(job.labels)] for i in range(count)])
    mean_nfe = sum(nfe) / count
    provenance = {
        **describe_machine(),
        "run": run.path.name,
        "recipe": resolved.text,
        "model_sha256": fingerprint(run.weights),
        "family": resolved.recipe.family,
        "seed": seed,
        "nfe": mean_nfe,
        "sample": chosen.model_dump_json(),
        "data_fingerprint": run.read_provenance().get("data_fingerprint", ""),
    }
    if guiding is not None:
        provenance |= {"classifier": guiding.path.name, "classifier_sha256": fingerprint(guiding.weights)}
    write_samples(out, images, labels, provenance)
    meshes = None if meshing is None else meshing(images, labels, say)
    seconds = time.perf_counter() - started
    return Sampled(out, count, mean_nfe, seconds, solver, seed, images, labels, meshes=meshes)


def meshes_beside(
    out: Path, module: GenModule, count: int, mesher: str | None
) -> Callable[[np.ndarray, np.ndarray | None, Callable[[str], None]], Path]:
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

    def work(clouds: np.ndarray, labels: np.ndarray | None, say: Callable[[str], None]) -> Path:
        return task.mesh_clouds(clouds, labels, folder, source=str(out), mesher=mesher, say=say).path

    return work


def named_changes(settings: Mapping[str, Any] | None, changes: Sequence[str]) -> list[str]:
    """Changes to a recipe's `sample:` block as overrides of the recipe."""
    named = [f"sample.{key}={json.dumps(value)}" for key, value in (settings or {}).items()]
    return [*named, *(f"sample.{change}" for change in changes)]


def default_name(job: Job, solver: str, count: int) -> str:
    """A name that tells the settings apart: what was asked differently never replaces an earlier file."""
    asked = sha256(f"{job.settings.model_dump_json()} {job.labels} {job.classifier}".encode()).hexdigest()[:8]
    if solver == job.settings.solver:
        solver += f"-{job.settings.steps}"
    return f"{solver}-seed{job.seed}-n{count}-{asked}.h5"


def _work(
    job: Job, module: GenModule, count: int, devices: int, ranks: Ranks
) -> Iterator[tuple[np.ndarray, float]]:
    """Batches in the order of their indices, drawn here, by `devices` processes or by all `ranks` (on rank 0)."""
    size = job.settings.batch_size
    spans = [(start, min(start + size, count)) for start in range(0, count, size)]
    if devices <= 1:
        device = ranks.device
        module, guide = module.to(device), load_guide(job, device)
        for first in range(0, len(spans), ranks.world):
            own = spans[first + ranks.rank : first + ranks.rank + 1]  # none in the last round, for some
            drawn = [draw_span(job, module, guide, span, device) for span in own]
            for parts in ranks.gather(drawn):
                yield from parts
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(devices, initializer=_start_worker, initargs=(job, devices)) as pool:
        yield from pool.imap(_worker, spans)


def load_guide(job: Job, device: torch.device) -> Guide | None:
    """The classifier that the job's samples are steered by, if any.

    Raises:
        UserError: the run is not one of a classifier of noisy states.
    """
    return None if job.classifier is None else load_run(job.classifier)[2].to(device).guide()


def draw_span(
    job: Job, module: GenModule, guide: Guide | None, span: tuple[int, int], device: torch.device
) -> tuple[np.ndarray, float]:
    """Samples span[0] .. span[1]-1 as the file keeps them, and their NFE."""
    x, nfe = draw_rows(job, module, guide, span, device)
    return as_kept(x, module.spec.kind), nfe


def draw_rows(
    job: Job, module: GenModule, guide: Guide | None, span: tuple[int, int], device: torch.device
) -> tuple[torch.Tensor, float]:
    """Samples span[0] .. span[1]-1 in model space, and their NFE.

    A span that the device has no memory for is drawn in halves: samples do not depend on their batch.

    Raises:
        GentoolError: a single sample does not fit.
    """
    first, last = span
    try:
        return _draw_together(job, module, guide, range(first, last), device)
    except torch.OutOfMemoryError as error:
        if last - first == 1:
            reason = str(error).splitlines()[0]
            raise GentoolError(f"out of GPU memory at a single sample ({reason})") from None
    if device.type == "cuda":
        torch.cuda.empty_cache()
    middle = (first + last) // 2
    (left, left_nfe), (right, right_nfe) = (
        draw_rows(job, module, guide, half, device) for half in ((first, middle), (middle, last))
    )
    nfe = (left_nfe * len(left) + right_nfe * len(right)) / (last - first)
    return torch.cat([left, right]), nfe


def _draw_together(
    job: Job, module: GenModule, guide: Guide | None, indices: range, device: torch.device
) -> tuple[torch.Tensor, float]:
    labels = None
    if job.labels is not None:
        labels = torch.tensor([job.labels[i % len(job.labels)] for i in indices], device=device)
    request = SampleRequest(
        seed=job.seed,
        indices=indices,
        labels=labels,
        settings=job.settings,
        guide=guide,
        device=device,
    )
    with torch.no_grad():
        drawn = module.draw(request)
    return drawn.x, drawn.nfe


def as_kept(x: torch.Tensor, kind: str) -> np.ndarray:
    """Samples in model space as files keep them: uint8 NHWC pictures, float32 otherwise."""
    if kind == "image":
        return to_uint8(x).permute(0, 2, 3, 1).cpu().numpy()
    return x.float().cpu().numpy()


_state: dict[str, Any] = {}


def _start_worker(job: Job, devices: int) -> None:
    rank = multiprocessing.current_process()._identity[0] - 1
    if torch.cuda.is_available():
        device = torch.device("cuda", rank % torch.cuda.device_count())
    else:
        device = torch.device("cpu")
        torch.set_num_threads(max(1, torch.get_num_threads() // devices))
    module = load_run(job.run)[2].to(device)
    _state.update(job=job, module=module, guide=load_guide(job, device), device=device)


def _worker(span: tuple[int, int]) -> tuple[np.ndarray, float]:
    return draw_span(span=span, **_state)
