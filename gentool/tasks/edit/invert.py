"""gentool edit --method ddpm-inversion | ddim-inversion: real pictures under another label or guidance."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gentool.diffusion import inversion
from gentool.diffusion.grids import Grid, make_grid
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.process import Process
from gentool.errors import UserError
from gentool.noise import Noise, mix
from gentool.recipes.schema import Sample
from gentool.runs.provenance import describe_machine
from gentool.runs.weights import fingerprint
from gentool.tasks.model.labels import label_cycle
from gentool.tasks.model.load import load_run
from gentool.tasks.pictures.read import Pictures, Split, fit_shape, read_pictures, resized
from gentool.tasks.pictures.readings import Readings, load_judge, read_both
from gentool.tasks.pictures.write import check_places, write_pictures
from gentool.training import drawing
from gentool.training.denoising import DenoisingModule
from gentool.training.module import GenModule

Method = Literal["ddpm-inversion", "ddim-inversion"]
SOLVER = {"ddpm-inversion": "ddpm", "ddim-inversion": "ddim"}
STEPS = 100
SKIPPED = {"ddpm-inversion": 0.36, "ddim-inversion": 0.0}
"""As published: 36 of 100 steps; DDIM's inversion goes all the way up."""
READ = ("steps", "grid", "grid_options", "threshold")
"""Keys of the `sample:` block that an inversion reads."""


@dataclass(frozen=True)
class Settings:
    """What to change, and how much to keep.

    Attributes:
        to_label, from_label: by number or name, several with commas in turn; None keeps the source's label, which is
            the input's own where it has one, else the null label.
        scale, from_scale: classifier-free guidance of the edit and of the inversion; 1 is none.
        skip: steps left out at the noisy end: more keeps more of the picture. None: the method's own share.
    """

    to_label: str | None = None
    from_label: str | None = None
    scale: float = 1.0
    from_scale: float = 1.0
    skip: int | None = None


@dataclass(frozen=True)
class Inverted:
    """The file, its panel, and what was measured.

    `moved`: root mean square change of a pixel in [-1, 1]; `reconstruction`: the same of the first batch's pictures
    when the condition is not changed at all; `nfe`: network calls a picture, that check apart.
    """

    path: Path
    panel: Path
    count: int
    how: dict[str, Any]
    moved: float
    reconstruction: float
    nfe: float
    seconds: float
    readings: Readings | None

    def document(self) -> dict[str, Any]:
        """What `gentool edit --json` prints."""
        return {
            "path": str(self.path),
            "panel": str(self.panel),
            "count": self.count,
            **self.how,
            "moved": self.moved,
            "reconstruction": self.reconstruction,
            "nfe": self.nfe,
            "seconds": round(self.seconds, 3),
            "classifier": None if self.readings is None else self.readings.document(),
        }


@dataclass(frozen=True)
class Inverter:
    """Both inversions of one model, over one grid."""

    module: DenoisingModule
    method: Method
    grid: Grid
    skip: int
    threshold: Literal["none", "static", "dynamic"]
    scales: tuple[float, float]
    calls: list[float] = field(default_factory=list)

    def __call__(
        self,
        x0: Tensor,
        source: Tensor | None,
        target: Tensor | None,
        noise: Noise,
        *,
        unchanged: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Pictures x0 (B, ...) float64 under the target's labels, and, if asked for, under the source's again."""
        process = self.module.model.process
        before, after = self._predict(source, self.scales[0]), self._predict(target, self.scales[1])
        again = self._predict(source, self.scales[0])
        if self.method == "ddpm-inversion":
            maps = inversion.invert(before, self.grid, x0, noise, self.skip)
            ends = [inversion.replay(p, self.grid, maps) for p in (after, again)[: 1 + unchanged]]
        else:
            top = inversion.encode(before, process, self.grid, x0, self.skip)
            ends = [
                inversion.decode(p, process, self.grid, top, self.skip)
                for p in (after, again)[: 1 + unchanged]
            ]
        self.calls.append((before.nfe + after.nfe) * len(x0))
        return ends[0], ends[1] if unchanged else None

    def _predict(self, label: Tensor | None, scale: float) -> Predictor:
        denoiser, traits = self.module.model, self.module.sampling_traits()
        settings = Sample(guidance={} if scale == 1 else {"cfg": {"scale": scale}})
        return Predictor(
            denoiser,
            sigma_min=denoiser.sigma_min,
            sigma_max=denoiser.sigma_max,
            label=label,
            guidance=drawing.build_guidance(settings, self.grid, denoiser, traits, None),
            threshold=self.threshold,
        )


def build_inverter(module: GenModule, method: Method, sample: Sample, settings: Settings) -> Inverter:
    """The inverter of a trained run.

    Args:
        sample: steps, grid and threshold.

    Raises:
        UserError: the run is of no denoiser of pictures, the method is not for it, or the settings do not fit.
    """
    family = module.recipe.family
    if not isinstance(module, DenoisingModule):
        hint = "; its base is one: RUN/base" if isinstance(module.base, DenoisingModule) else ""
        raise UserError(f"a run of the family {family} is no denoiser to invert: take a diffusion run{hint}")
    process = module.model.process
    if process.state_parts != 1:
        raise UserError(f"a picture has no velocity, which the states of the family {family} carry beside it")
    if method == "ddpm-inversion" and module.likelihood_prior() is not None:
        raise UserError(f"the family {family} adds no Gaussian noise: take --method ddim-inversion")
    if module.spec.kind != "image":
        raise UserError(f"edits are of pictures; this model makes {module.spec.kind} data")
    options = {**sample.grid_options, "final": "zero" if method == "ddpm-inversion" else "t-min"}
    grid = make_grid(sample.grid or default_grid(process), sample.steps, process, **options)
    skip = round(SKIPPED[method] * grid.steps) if settings.skip is None else settings.skip
    inversion.check_skip(skip, grid.steps)
    return Inverter(module, method, grid, skip, sample.threshold, (settings.from_scale, settings.scale))


def default_grid(process: Process) -> str:
    """Even times where time is bounded, as published; EDM's levels where it is the noise level itself."""
    return "uniform-t" if process.variance_preserving or process.name == "flow" else "karras"


def invert(
    path: Path | str,
    source: str,
    method: Method,
    *,
    settings: Settings = Settings(),
    changes: Sequence[str] = (),
    out: Path | None = None,
    seed: int = 0,
    count: int | None = None,
    split: Split = "test",
    classifier: str | None = None,
    resize: bool = False,
    repeat_channels: bool = False,
    batch_size: int = 64,
    report: Callable[[int, int, dict[str, float]], None] = lambda done, total, figures: None,
    say: Callable[[str], None] = lambda line: None,
) -> Inverted:
    """Edits INPUT with the run at `path`, and writes the pictures and a panel: before, after, difference.

    Picture i depends on (seed, i) alone, not on its batch (to the rounding of the network's kernels).

    Args:
        changes: `KEY=VALUE` of the recipe's `sample:` block, of the keys in `READ`.
        classifier: a run whose readings before and after are compared.
        resize, repeat_channels: how pictures of another shape are brought to the model's, and back in size.
    """
    started = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run, resolved, module = load_run(path, _sample_changes(changes))
    inverter = build_inverter(module.to(device), method, resolved.recipe.sample, settings)
    found = read_pictures(source, known=resolved.recipe.data, split=split, count=count, say=say)
    fed = fit_shape(found.x, module.spec.shape, found.name, resize=resize, repeat_channels=repeat_channels)
    size: tuple[int, int] = tuple(found.x.shape[2:])  # type: ignore[assignment]
    before_labels = source_labels(module, found, settings.from_label, len(fed))
    asked = label_cycle(settings.to_label, module, None) if settings.to_label is not None else None
    after_labels = before_labels if asked is None else _in_turn(asked, len(fed))
    if settings.from_scale != 1 or settings.scale != 1:
        inverter._predict(
            before_labels, settings.from_scale
        )  # refuses what the model cannot, before any work
        inverter._predict(after_labels, settings.scale)
    judge = None if classifier is None else load_judge(classifier, (module.spec.shape[0], *size), device)
    out = out or run.samples / f"edited-{Path(source).stem}-{method}-seed{seed}.h5"
    check_places(out, source, single=found.single)
    for line in inverter.grid.notes:
        say(line)
    edited, unchanged = [], 0.0
    for first in range(0, len(fed), batch_size):
        rows = range(first, min(first + batch_size, len(fed)))
        x0 = fed[rows.start : rows.stop].to(device, torch.float32 if device.type == "mps" else torch.float64)
        noise = Noise(mix(seed, "inversion"), rows, x0.shape[1:], device, x0.dtype)
        old, new = (
            None if k is None else k[rows.start : rows.stop].to(device) for k in (before_labels, after_labels)
        )
        with torch.no_grad():
            found_x, same = inverter(x0, old, new, noise, unchanged=first == 0)
        edited.append(found_x.float().cpu())
        if same is not None:
            unchanged = float((same - x0).square().mean().sqrt())
        report(rows.stop, len(fed), {})
    after, before = torch.cat(edited), fed
    if size != tuple(after.shape[2:]):
        same_channels = fed.shape[1] == found.x.shape[1]
        before, after = found.x if same_channels else resized(fed, size), resized(after, size)
    readings = None if judge is None else read_both(*judge, before, after, found.labels)
    how = {
        "method": method,
        "seed": seed,
        "steps": inverter.grid.steps,
        "skip": inverter.skip,
        "sigma": float(inverter.grid.sigma[inverter.skip]),
        "grid": inverter.grid.name,
        "to_label": settings.to_label,
        "from_label": settings.from_label,
        "scale": settings.scale,
        "from_scale": settings.from_scale,
    }
    provenance = {
        **describe_machine(),
        "run": run.path.name,
        "recipe": resolved.text,
        "model_sha256": fingerprint(run.weights),
        "input": source,
        "edit": how,
    }
    panel = write_pictures(out, found, before, after, provenance, difference=True)
    return Inverted(
        path=out,
        panel=panel,
        count=len(after),
        how=how,
        moved=float((after - before).square().mean().sqrt()),
        reconstruction=unchanged,
        nfe=sum(inverter.calls) / len(fed),
        seconds=time.perf_counter() - started,
        readings=readings,
    )


def _sample_changes(changes: Sequence[str]) -> list[str]:
    """Overrides of the recipe; the number of steps is the method's own unless it is among them.

    Raises:
        UserError: a key that an inversion does not read.
    """
    for change in changes:
        key = change.partition("=")[0].strip().split(".")[0]
        if key not in READ:
            raise UserError(f"an inversion reads {', '.join(READ)} alone, not {key!r}", "--set")
    return [f"sample.steps={STEPS}", "sample.grid=null", "sample.grid_options={}"] + [
        f"sample.{c}" for c in changes
    ]


def source_labels(
    module: DenoisingModule | GenModule, found: Pictures, asked: str | None, count: int
) -> Tensor | None:
    """(N,) labels that the pictures are inverted under: those asked for, their own, or the null label.

    Raises:
        UserError: a picture has none, and the model was never trained without.
    """
    if asked is not None:
        cycle = label_cycle(asked, module, None)
        return None if cycle is None else _in_turn(cycle, count)
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


def _in_turn(cycle: tuple[int, ...], count: int) -> Tensor:
    return torch.tensor([cycle[i % len(cycle)] for i in range(count)])
