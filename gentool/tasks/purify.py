"""gentool purify: pictures through a diffusion run and back (DiffPure, arXiv 2205.07460)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gentool.data import to_uint8
from gentool.diffusion.purify import Purifier
from gentool.diffusion.purify_levels import langevin_time, level_of, method_named, notices
from gentool.errors import GentoolError, UserError
from gentool.runs import pictures
from gentool.runs.atomic import atomic_write, check_writable
from gentool.runs.provenance import describe_machine
from gentool.runs.samples import check_output, write_samples
from gentool.runs.weights import fingerprint
from gentool.tasks.picture_input import Pictures, Split, fit_shape, read_pictures, resized
from gentool.tasks.readings import Readings, load_judge, read_both
from gentool.tasks.sample import label_cycle, load_run
from gentool.training.denoising import DenoisingModule
from gentool.training.module import GenModule

STEPS, LANGEVIN_STEPS = 100, 10
"""As published at t* = 0.1: steps of 1e-3, and of 1e-2 for ld-sde."""
SHOWN = 16
"""Pictures of the panel."""


@dataclass(frozen=True)
class Settings:
    """How to purify, as the user says it; None is the default.

    Attributes:
        t_star: in the process's own time; ld-sde: its whole time.
        sigma_star: the same as a noise level.
        label: the class a conditional model is told, by number or name; None: its null label.
    """

    method: str | None = None
    t_star: float | None = None
    sigma_star: float | None = None
    steps: int | None = None
    rounds: int = 1
    label: str | None = None


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


def build_purifier(module: GenModule, settings: Settings) -> Purifier:
    """The purifier of a trained run, on the module's device.

    Raises:
        UserError: the run is of no single denoiser of pictures, or the settings do not fit it.
    """
    if not isinstance(module, DenoisingModule):
        raise UserError(why_no_denoiser(module))
    family, denoiser = module.recipe.family, module.model
    if module.spec.kind != "image":
        raise UserError(f"purification is for pictures; this model makes {module.spec.kind} data")
    if denoiser.process.state_parts != 1:
        raise UserError(
            f"purification adds noise to pictures; the family {family} adds it to their velocities"
        )
    if module.likelihood_prior() is not None:
        raise UserError(f"purification adds Gaussian noise, which the family {family} does not remove")
    process, method = denoiser.process, method_named(settings.method, denoiser.process)
    if method == "ld-sde":
        own = Purifier(denoiser, process, method)
        found = langevin_time(settings.t_star, settings.sigma_star)
        langevin = own.langevin if found is None else replace(own.langevin, time=found)
        chosen = replace(own, langevin=langevin)
        steps = settings.steps or max(1, round(LANGEVIN_STEPS * langevin.time / 0.1))
    else:
        chosen = Purifier(denoiser, process, method, level_of(process, settings.t_star, settings.sigma_star))
        steps = settings.steps or STEPS
    return replace(chosen, steps=steps, rounds=settings.rounds, label=_label(module, settings.label))


def why_no_denoiser(module: GenModule) -> str:
    """Why a run that is not one denoiser cannot purify, in a line."""
    family, instead = module.recipe.family, "give a diffusion run (edm, dpdm)"
    if module.spec.kind != "image":
        return f"purification is for pictures; this run of {family} is of {module.spec.kind} data: {instead}"
    if type(module).judge is not GenModule.judge:
        return f"a run of the family {family} is no denoiser: it can be --classifier; as RUN {instead}"
    if isinstance(module.base, DenoisingModule):
        return f"a run of the family {family} is no denoiser but a faster solver of one: give the run it stands on"
    return f"a run of the family {family} is no denoiser: it makes pictures from latents alone; {instead}"


def _label(module: DenoisingModule, asked: str | None) -> int | None:
    if asked is not None:
        labels = label_cycle(asked, module, None)
        if labels is None or len(labels) != 1:
            raise UserError(f"--label {asked}: one class at most is told to the model")
        return labels[0]
    if module.classes == 0:
        return None
    if module.recipe.model.label_dropout == 0:
        raise UserError(
            "this model was never trained without labels (model.label_dropout: 0), and a picture to purify has none: "
            "give --label, or train with label dropout"
        )
    return module.classes


def purify(
    path: Path | str,
    source: str,
    *,
    out: Path | None = None,
    settings: Settings = Settings(),
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
    purifier = build_purifier(module.to(device), settings)
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


def write_pictures(
    out: Path,
    found: Pictures,
    before: Tensor,
    after: Tensor,
    provenance: dict[str, Any],
    *,
    difference: bool = False,
) -> Path:
    """The changed pictures, and the panel beside them."""
    old, new = (to_uint8(x).permute(0, 2, 3, 1).numpy() for x in (before, after))
    if found.single and out.suffix.lower() == ".png":
        with atomic_write(out) as scratch:
            Image.fromarray(new[0, ..., 0] if new.shape[-1] == 1 else new[0]).save(scratch, format="PNG")
    else:
        write_samples(out, new, None if found.labels is None else np.asarray(found.labels), provenance)
    return write_panel(out, old, new, difference=difference)


def check_places(out: Path, source: str, *, single: bool) -> None:
    """Refuses an output that cannot be written, or that is the input itself.

    Raises:
        UserError: says which.
    """
    if not (single and out.suffix.lower() == ".png"):
        check_output(out, "image")
    check_writable(out.absolute().parent)
    if out.exists() and Path(source).exists() and out.samefile(source):
        raise UserError("is INPUT itself: name another output", str(out))


def write_panel(
    out: Path,
    before: np.ndarray,
    after: np.ndarray,
    *,
    difference: bool = False,
    between: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Path:
    """A few of the pictures (N, H, W, C) uint8, before above after, beside the file `out`.

    Args:
        difference: a last row, |after - before| in the pictures' own units.
        between: further rows by name, between the two.
    """
    panel, shown = out.with_name(f"{out.stem}-panel.png"), min(SHOWN, len(before))
    rows = {"before": before, **between, "after": after}
    if difference:
        rows["difference"] = np.maximum(before, after) - np.minimum(before, after)
    rows = {name: row[:shown] for name, row in rows.items()}
    with atomic_write(panel) as scratch:
        pictures.sheet(np.concatenate(list(rows.values())), shown, tuple(rows)).save(scratch, format="PNG")
    return panel
