"""gentool purify: pictures through a diffusion run and back (DiffPure, arXiv 2205.07460)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gentool.diffusion.purify import Purifier
from gentool.diffusion.purify_levels import notices
from gentool.errors import GentoolError
from gentool.runs.folder import told_apart
from gentool.tasks.model.load import best_device, load_run, origin
from gentool.tasks.pictures.change import Changed, Intake, Subject
from gentool.tasks.pictures.write import check_places
from gentool.tasks.purification.purifier import Settings, build_purifier
from gentool.training.watching import Report, Say, unreported, unsaid


@dataclass(frozen=True, kw_only=True)
class Purified(Changed):
    """Purified pictures. `seed`: of their noise."""

    seed: int

    def figures(self) -> dict[str, Any]:
        return {"seed": self.seed, **super().figures()}


def purify(
    path: Path | str,
    source: str,
    *,
    out: Path | None = None,
    settings: Settings | None = None,
    seed: int = 0,
    intake: Intake | None = None,
    batch_size: int = 64,
    report: Report = unreported,
    say: Say = unsaid,
) -> Purified:
    """Purifies INPUT with the run at `path` and writes the pictures and a before/after panel.

    Picture i depends on (seed, i) alone, not on its batch (to the rounding of the network's kernels). The classifier
    reads the purified values themselves, neither clamped nor rounded, as published; the file holds bytes.

    Args:
        out: by its name, .h5, .npz, .png or a folder; a single picture's .png is that picture. None: beside the run's
            samples.
    """
    started = time.perf_counter()
    device = best_device()
    run, resolved, module = load_run(path)
    purifier = build_purifier(module.to(device), settings or Settings())
    if purifier.method != "ld-sde":
        for line in notices(purifier.sigma_star):
            say(line)
    intake = intake or Intake()
    subject = Subject.read(source, module, intake, known=resolved.recipe.data, say=say)
    x = subject.x
    asked = told_apart(source, intake, purifier.describe(), purifier.label)
    out = out or run.samples / f"purified-{Path(source).stem}-{purifier.method}-seed{seed}-{asked}.h5"
    check_places(out, source, single=subject.found.single)
    say(
        f"{len(x)} pictures, {purifier.nfe} network calls each ({purifier.method}, t* = {purifier.t_star:.4g})"
    )
    parts = []
    for start in range(0, len(x), batch_size):
        rows = range(start, min(start + batch_size, len(x)))
        parts.append(_together(purifier, x[rows.start : rows.stop].to(device), rows, seed).cpu())
        report(rows.stop, len(x), {})
    how = {"process": purifier.process.name, **purifier.describe()}
    provenance = {**origin(run, resolved), "input": source, "seed": seed, "purify": how}
    panel, moved, readings = subject.write(out, torch.cat(parts), provenance)
    return Purified(
        path=out,
        panel=panel,
        count=len(x),
        how=how,
        moved=moved,
        seconds=time.perf_counter() - started,
        readings=readings,
        seed=seed,
    )


def _together(purifier: Purifier, x: Tensor, rows: Sequence[int], seed: int) -> Tensor:
    """A batch, in halves where the device has no memory for it.

    Raises:
        GentoolError: a single picture does not fit.
    """
    try:
        with torch.no_grad():
            return purifier(x, rows, seed)
    except torch.OutOfMemoryError as error:
        if len(x) == 1:
            raise GentoolError(
                f"out of GPU memory at a single picture ({str(error).splitlines()[0]})"
            ) from None
    if x.device.type == "cuda":
        torch.cuda.empty_cache()
    half = len(x) // 2
    return torch.cat(
        [
            _together(purifier, part, own, seed)
            for part, own in ((x[:half], rows[:half]), (x[half:], rows[half:]))
        ]
    )
