"""Samples by their indices, in batches: here, by several processes of this machine, or by those of a launcher."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from gentool.data import to_uint8
from gentool.diffusion.solvers.catalog import SOLVERS
from gentool.errors import GentoolError
from gentool.recipes.schema import Sample
from gentool.tasks.model.labels import in_turn
from gentool.tasks.model.load import load_run
from gentool.tasks.sampling.ranks import Ranks
from gentool.training.module import GenModule
from gentool.training.sampling import Drawn, Guide, SampleRequest


@dataclass(frozen=True)
class Job:
    """Everything a worker process needs to draw some of the samples."""

    run: str
    settings: Sample
    seed: int
    labels: tuple[int, ...] | None
    classifier: str | None = None


OF_ANOTHER_SOLVER: Mapping[str, Any] = MappingProxyType({"options": {}, "grid": None, "grid_options": {}})
"""What a solver that the recipe does not name takes in the place of what the recipe says for its own."""
OWN_STEPS = "{} chooses its own steps, whatever number is asked for: of the grid it takes the ends alone"


def has_own_steps(solver: str) -> bool:
    """Whether a number of steps asked of this solver means nothing to it."""
    return "adaptive" in SOLVERS.get(solver).needs


def named_changes(settings: Mapping[str, Any] | None, changes: Sequence[str]) -> list[str]:
    """Changes to a recipe's `sample:` block as overrides of the recipe."""
    named = [f"sample.{key}={json.dumps(value)}" for key, value in (settings or {}).items()]
    return [*named, *(f"sample.{change}" for change in changes)]


@dataclass(frozen=True)
class Part:
    """Some of the samples as the file keeps them, network calls for each of them, and what made them (`Drawn`)."""

    samples: np.ndarray
    nfe: float
    manifest: Mapping[str, Any]


def batches(job: Job, module: GenModule, count: int, devices: int, ranks: Ranks) -> Iterator[Part]:
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
) -> Part:
    """Samples span[0] .. span[1]-1."""
    drawn = draw_rows(job, module, guide, span, device)
    return Part(as_kept(drawn.x, module.spec.kind), drawn.nfe, drawn.manifest)


def draw_rows(
    job: Job, module: GenModule, guide: Guide | None, span: tuple[int, int], device: torch.device
) -> Drawn:
    """Samples span[0] .. span[1]-1 in model space.

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
    left, right = (draw_rows(job, module, guide, half, device) for half in ((first, middle), (middle, last)))
    nfe = (left.nfe * len(left.x) + right.nfe * len(right.x)) / (last - first)
    return replace(left, x=torch.cat([left.x, right.x]), nfe=nfe)


def _draw_together(
    job: Job, module: GenModule, guide: Guide | None, indices: range, device: torch.device
) -> Drawn:
    labels = None if job.labels is None else in_turn(job.labels, indices, device)
    request = SampleRequest(
        seed=job.seed,
        indices=indices,
        labels=labels,
        settings=job.settings,
        guide=guide,
        device=device,
    )
    with torch.no_grad():
        return module.draw(request)


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


def _worker(span: tuple[int, int]) -> Part:
    return draw_span(span=span, **_state)
