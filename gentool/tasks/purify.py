"""gentool purify: pictures through a diffusion run and back (DiffPure, arXiv 2205.07460)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gentool.diffusion.purify import Purifier
from gentool.diffusion.purify_levels import notices
from gentool.errors import GentoolError
from gentool.runs.provenance import describe_machine
from gentool.runs.weights import fingerprint
from gentool.tasks.model.load import load_run
from gentool.tasks.pictures.read import Split, fit_shape, read_pictures, resized
from gentool.tasks.pictures.readings import Readings, load_judge, read_both
from gentool.tasks.pictures.write import check_places, write_pictures
from gentool.tasks.purification.purifier import Settings, build_purifier


@dataclass(frozen=True)
class Purified:
    """The file, its panel, and what was done and measured. `moved`: root mean square change of a pixel in [-1, 1]."""

    path: Path
    panel: Path
    count: int
    how: dict[str, Any]
    seed: int
    moved: float
    seconds: float
    readings: Readings | None

    def document(self) -> dict[str, Any]:
        """What `gentool purify --json` prints."""
        return {
            "path": str(self.path),
            "panel": str(self.panel),
            "count": self.count,
            **self.how,
            "seed": self.seed,
            "moved": self.moved,
            "seconds": round(self.seconds, 3),
            "classifier": None if self.readings is None else self.readings.document(),
        }


def purify(
    path: Path | str,
    source: str,
    *,
    out: Path | None = None,
    settings: Settings | None = None,
    seed: int = 0,
    count: int | None = None,
    split: Split = "test",
    classifier: str | None = None,
    resize: bool = False,
    repeat_channels: bool = False,
    batch_size: int = 64,
    report: Callable[[int, int, dict[str, float]], None] = lambda done, total, figures: None,
    say: Callable[[str], None] = lambda line: None,
) -> Purified:
    """Purifies INPUT with the run at `path` and writes the pictures and a before/after panel.

    Picture i depends on (seed, i) alone, not on its batch (to the rounding of the network's kernels). The classifier
    reads the purified values themselves, neither clamped nor rounded, as published; the file holds bytes.

    Args:
        out: by its name, .h5, .npz, .png or a folder; a single picture's .png is that picture. None: beside the run's
            samples.
        split, count: of a data set: which part, and how many.
        classifier: a run whose readings before and after are compared.
        resize, repeat_channels: how pictures of another shape are brought to the model's, and back in size.
    """
    started = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run, resolved, module = load_run(path)
    purifier = build_purifier(module.to(device), settings or Settings())
    if purifier.method != "ld-sde":
        for line in notices(purifier.sigma_star):
            say(line)
    found = read_pictures(source, known=resolved.recipe.data, split=split, count=count, say=say)
    fed = fit_shape(found.x, module.spec.shape, found.name, resize=resize, repeat_channels=repeat_channels)
    size: tuple[int, int] = tuple(found.x.shape[2:])  # type: ignore[assignment]
    judged = (module.spec.shape[0], *size)
    judge = None if classifier is None else load_judge(classifier, judged, device)
    out = out or run.samples / f"purified-{Path(source).stem}-{purifier.method}-seed{seed}.h5"
    check_places(out, source, single=found.single)
    say(
        f"{len(fed)} pictures, {purifier.nfe} network calls each ({purifier.method}, t* = {purifier.t_star:.4g})"
    )
    parts = []
    for start in range(0, len(fed), batch_size):
        rows = range(start, min(start + batch_size, len(fed)))
        parts.append(_together(purifier, fed[rows.start : rows.stop].to(device), rows, seed).cpu())
        report(rows.stop, len(fed), {})
    after, before = torch.cat(parts), fed
    if size != tuple(after.shape[2:]):
        before, after = (
            resized(fed, size) if fed.shape[1] != found.x.shape[1] else found.x,
            resized(after, size),
        )
    readings = None if judge is None else read_both(*judge, before, after, found.labels)
    how = {"process": purifier.process.name, **purifier.describe()}
    provenance = {
        **describe_machine(),
        "run": run.path.name,
        "recipe": resolved.text,
        "model_sha256": fingerprint(run.weights),
        "input": source,
        "seed": seed,
        "purify": how,
    }
    panel = write_pictures(out, found, before, after, provenance)
    moved = float((after - before).square().mean().sqrt())
    seconds = time.perf_counter() - started
    return Purified(out, panel, len(after), how, seed, moved, seconds, readings)


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
