"""gentool edit --method ddpm-inversion | ddim-inversion: real pictures under another label or guidance."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gentool.errors import UserError
from gentool.noise import Noise, mix
from gentool.tasks.edit.inverter import DDIM, Method, Settings, build_inverter, denoising
from gentool.tasks.model.labels import in_turn, label_cycle
from gentool.tasks.model.load import best_device, load_run, origin, stored_recipe
from gentool.tasks.pictures.change import Changed, Intake, Subject
from gentool.tasks.pictures.read import Pictures
from gentool.tasks.pictures.write import check_places
from gentool.training.denoising import DenoisingModule
from gentool.training.watching import Report, Say, unreported, unsaid

STEPS = 100
READ = {
    "ddpm-inversion": ("steps", "grid", "grid_options", "threshold"),
    "ddim-inversion": ("steps", "grid", "grid_options", "threshold", "solver", "options"),
}
"""Keys of the `sample:` block that an inversion reads."""


@dataclass(frozen=True, kw_only=True)
class Inverted(Changed):
    """Edited pictures.

    `reconstruction`: root mean square change of the first batch's pictures when the condition is not changed at all;
    `nfe`: network calls a picture, that check apart.
    """

    reconstruction: float
    nfe: float

    def figures(self) -> dict[str, Any]:
        return {**super().figures(), "reconstruction": self.reconstruction, "nfe": self.nfe}


def invert(
    path: Path | str,
    source: str,
    method: Method,
    *,
    settings: Settings | None = None,
    changes: Sequence[str] = (),
    out: Path | None = None,
    seed: int = 0,
    intake: Intake | None = None,
    batch_size: int = 64,
    report: Report = unreported,
    say: Say = unsaid,
) -> Inverted:
    """Edits INPUT with the run at `path`, and writes the pictures and a panel: before, after, difference.

    Picture i depends on (seed, i) alone, not on its batch (to the rounding of the network's kernels).

    Args:
        changes: `KEY=VALUE` of the recipe's `sample:` block, of the method's keys in `READ`.
    """
    started, settings = time.perf_counter(), settings or Settings()
    device = best_device()
    run, _, module = load_run(path)
    denoising(module, method)  # refused for what it is, before its recipe's keys are
    resolved = stored_recipe(run, _sample_changes(changes, method))
    inverter = build_inverter(module.to(device), method, resolved.recipe.sample, settings)
    subject = Subject.read(source, module, intake or Intake(), known=resolved.recipe.data, say=say)
    x, found = subject.x, subject.found
    before_labels = source_labels(inverter.module, found, settings.from_label, len(x))
    asked = label_cycle(settings.to_label, module, None) if settings.to_label is not None else None
    after_labels = before_labels if asked is None else in_turn(asked, range(len(x)))
    inverter.check(before_labels, after_labels)
    out = out or run.samples / f"edited-{Path(source).stem}-{method}-seed{seed}.h5"
    check_places(out, source, single=found.single)
    for line in inverter.grid.notes:
        say(line)
    edited, unchanged = [], 0.0
    for first in range(0, len(x), batch_size):
        rows = range(first, min(first + batch_size, len(x)))
        x0 = x[rows.start : rows.stop].to(device, torch.float32 if device.type == "mps" else torch.float64)
        noise = Noise(mix(seed, "inversion"), rows, x0.shape[1:], device, x0.dtype)
        old, new = (
            None if k is None else k[rows.start : rows.stop].to(device) for k in (before_labels, after_labels)
        )
        with torch.no_grad():
            found_x, same = inverter(x0, old, new, noise, unchanged=first == 0)
        edited.append(found_x.float().cpu())
        if same is not None:
            unchanged = float((same - x0).square().mean().sqrt())
        report(rows.stop, len(x), {})
    how = {
        "method": method,
        "seed": seed,
        "steps": inverter.grid.steps,
        "skip": inverter.skip,
        "sigma": float(inverter.grid.sigma[inverter.skip]),
        "grid": inverter.grid.name,
        **({} if method == "ddpm-inversion" else {"solver": resolved.recipe.sample.solver}),
        "to_label": settings.to_label,
        "from_label": settings.from_label,
        "scale": settings.scale,
        "from_scale": settings.from_scale,
    }
    provenance = {**origin(run, resolved), "input": source, "edit": how}
    panel, moved, readings = subject.write(out, torch.cat(edited), provenance, difference=True)
    return Inverted(
        path=out,
        panel=panel,
        count=len(x),
        how=how,
        moved=moved,
        seconds=time.perf_counter() - started,
        readings=readings,
        reconstruction=unchanged,
        nfe=sum(inverter.calls) / len(x),
    )


def _sample_changes(changes: Sequence[str], method: Method) -> list[str]:
    """Overrides of the recipe; steps, grid and solver are the method's own unless they are among them.

    Raises:
        UserError: a key that an inversion does not read.
    """
    for change in changes:
        key = change.partition("=")[0].strip().split(".")[0]
        if key not in READ[method]:
            raise UserError(f"{method} reads {', '.join(READ[method])} alone, not {key!r}", "--set")
    own = (f"steps={STEPS}", f"solver={DDIM}", "options={}", "grid=null", "grid_options={}")
    return [f"sample.{change}" for change in (*own, *changes)]


def source_labels(module: DenoisingModule, found: Pictures, asked: str | None, count: int) -> Tensor | None:
    """(N,) labels that the pictures are inverted under: those asked for, their own, or the null label.

    Raises:
        UserError: a picture has none, and the model was never trained without.
    """
    if asked is not None:
        cycle = label_cycle(asked, module, None)
        return None if cycle is None else in_turn(cycle, range(count))
    if module.classes == 0:
        return None
    null = torch.full((count,), module.classes)
    own = torch.full((count,), -1)
    if found.labels is not None and len(found.class_names) == module.classes:
        own = torch.from_numpy(found.labels).long()
    if bool((own < 0).any()) and module.recipe.model.label_dropout == 0:
        raise UserError(
            "this model was never trained without labels (model.label_dropout: 0), and a picture here has none: give "
            "--from-label"
        )
    return torch.where(own < 0, null, own)
