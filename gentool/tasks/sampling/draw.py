"""Samples by their indices, in batches: here, by several processes of this machine, or by those of a launcher."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gentool.data import to_uint8
from gentool.errors import GentoolError
from gentool.recipes.schema import Sample
from gentool.tasks.model.labels import in_turn
from gentool.tasks.model.load import load_run
from gentool.tasks.sampling.ranks import Ranks
from gentool.training.module import GenModule
from gentool.training.sampling import Guide, SampleRequest


@dataclass(frozen=True)
class Job:
    """Everything a worker process needs to draw some of the samples."""

    run: str
    settings: Sample
    seed: int
    labels: tuple[int, ...] | None
    classifier: str | None = None


def named_changes(settings: Mapping[str, Any] | None, changes: Sequence[str]) -> list[str]:
    """Changes to a recipe's `sample:` block as overrides of the recipe."""
    named = [f"sample.{key}={json.dumps(value)}" for key, value in (settings or {}).items()]
    return [*named, *(f"sample.{change}" for change in changes)]


def batches(
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
