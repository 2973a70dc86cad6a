"""gentool edit --method interpolate | diffuse-denoise: shapes between two shapes, and variations of a shape."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from gentool.data import open_set, parse_source
from gentool.data.config import SETS, DataConfig
from gentool.errors import CorruptError, UserError
from gentool.families.lion.config import VoxelInput
from gentool.families.lion.degrade import drawn_points
from gentool.families.lion.editing import LEVELS, Editor, Level
from gentool.families.lion.module import LionModule
from gentool.noise import Noise, mix
from gentool.points.distances import chamfer
from gentool.recipes.schema import Sample
from gentool.runs.atomic import check_apart, check_writable
from gentool.runs.samples import check_output, read_samples, write_samples
from gentool.tasks.model.labels import label_cycle
from gentool.tasks.model.load import best_device, load_run, origin
from gentool.training.sampling import SampleRequest
from gentool.training.watching import Report, Say, unreported, unsaid

Method = Literal["interpolate", "diffuse-denoise"]
FLOW = (
    "sample.solver=edm",
    "sample.steps=50",
    "sample.grid=log-snr",
    "sample.grid_options={}",
    "sample.options={}",
)
"""What interpolation runs backwards and forwards: Heun's method on the probability flow."""
LEAST_LEVEL = 2


@dataclass(frozen=True)
class CloudEdit:
    """The file and what was done; `nfe` is of one cloud of it."""

    path: Path
    count: int
    how: dict[str, Any]
    nfe: float
    seconds: float

    def document(self) -> dict[str, Any]:
        """What `gentool edit --json` prints."""
        return {
            "path": str(self.path),
            "count": self.count,
            **self.how,
            "nfe": self.nfe,
            "seconds": round(self.seconds, 3),
        }


def edit_clouds(
    path: Path | str,
    method: Method,
    source: str | None = None,
    *,
    frames: int = 8,
    freeze: Level | None = None,
    tau: tuple[int, int] = (200, 200),
    variants: int = 7,
    count: int | None = None,
    label: str | None = None,
    changes: Sequence[str] = (),
    seed: int | None = None,
    out: Path | None = None,
    batch_size: int = 16,
    report: Report = unreported,
    say: Say = unsaid,
) -> CloudEdit:
    """Edits clouds of INPUT, or samples of the run, and writes the clouds that come of it.

    `interpolate` takes the first two clouds and writes `frames` from the one to the other; `diffuse-denoise` writes
    the reconstruction of each cloud and `variants` variations.

    Args:
        source: a samples file of clouds, a data set, or a voxel grid (.npy) for a run that was fine-tuned for them.
        freeze: `interpolate` leaves this latent's noise as that of the first cloud.
        tau: levels of 1000 up to which the global latent and the points are noised; 0 keeps one.
        count: `diffuse-denoise` takes the first so many clouds of INPUT, or so many samples.
        batch_size: clouds at once.
        label: a class that the priors are told; None tells them nothing.
        changes: `KEY=VALUE` of the recipe's `sample:` block.

    Raises:
        UserError: the run is of another family, or the input or the settings do not fit it.
    """
    started = time.perf_counter()
    device = best_device()
    own = FLOW if method == "interpolate" else ()
    asked = ["sample.presets={}", *own, *(f"sample.{change}" for change in changes)]
    run, resolved, module = load_run(path, asked)
    if not isinstance(module, LionModule):
        raise UserError(f"{method} is for clouds of points and the family lion, not {resolved.recipe.family}")
    check(method, frames, tau, variants, freeze, count)
    module.to(device)
    settings, seed = resolved.recipe.sample, resolved.recipe.seed if seed is None else seed
    out = out or run.samples / f"{method}-{Path(source or 'samples').stem}-seed{seed}.h5"
    check_output(out, "points")
    check_writable(out.absolute().parent)
    check_apart(out, source)
    wanted = 2 if method == "interpolate" else count
    with torch.no_grad():
        x = (
            None
            if source is None
            else read_clouds(source, module, resolved.recipe.data, wanted, seed).to(device)
        )
        editor = Editor(module, module.points if x is None else x.shape[1], _condition(module, label))
        how: dict[str, Any] = {"method": method, "seed": seed, "input": source, "label": label}
        how |= {"solver": settings.solver, "steps": settings.steps}
        if method == "interpolate":
            made, nfe, ends = interpolated(editor, module, x, frames, freeze, settings, seed, batch_size)
            how |= {"frames": frames, "freeze": freeze, "ends": ends}
        else:
            if x is None:
                x = samples_of(module, editor, settings, seed, count or batch_size)
            made, nfe = variations(editor, x, tau, variants, settings, seed, batch_size, report)
            how |= {"tau": list(tau), "variants": variants}
    provenance = {
        **origin(run, resolved),
        "edit": how,
    }
    write_samples(out, made, None, provenance)
    say(f"{len(made)} clouds of {made.shape[1]} points")
    return CloudEdit(out, len(made), how, nfe, time.perf_counter() - started)


def check(
    method: Method,
    frames: int,
    tau: tuple[int, int],
    variants: int,
    freeze: str | None = None,
    count: int | None = None,
) -> None:
    """Refuses settings that mean nothing.

    Raises:
        UserError: says which.
    """
    if method == "interpolate" and frames < 2:
        raise UserError(f"expected at least 2 frames, the two ends, not {frames}", "--frames")
    if method == "interpolate" and count is not None:
        raise UserError(
            "interpolation is between two shapes, the first two of INPUT or of the seed", "--sample"
        )
    if freeze is not None and freeze not in get_args(Level):
        raise UserError(f"expected {' or '.join(get_args(Level))}, not {freeze!r}", "--freeze")
    if variants < 1:
        raise UserError(f"expected at least 1, not {variants}", "--variants")
    if any(t and not LEAST_LEVEL <= t <= LEVELS for t in tau):
        raise UserError(f"expected 0, or a level from {LEAST_LEVEL} to {LEVELS}, not {tau}", "--tau")


def interpolated(
    editor: Editor,
    module: LionModule,
    x: Tensor | None,
    frames: int,
    freeze: Level | None,
    settings: Sample,
    seed: int,
    batch_size: int,
) -> tuple[np.ndarray, float, list[float] | None]:
    """From the first cloud to the second (of x, else of two samples).

    Returns:
        Clouds (frames, N, 3), network calls a frame, and the Chamfer distances of the ends from the reconstructions of
        the two clouds: what the flow lost on its way there and back, or left out where a latent is frozen.
    """
    if x is not None:
        if len(x) < 2:
            raise UserError("interpolation needs two clouds, and INPUT holds one")
        style, points, there = editor.noise(x[:2], settings)
    else:
        shape, there = editor.generation.points_traits.shape, 0.0
        style = Noise(seed, range(2), (module.recipe.model.style,), module.device).normal("prior")
        points = Noise(mix(seed, "points"), range(2), shape, module.device).normal("prior")
    shares = torch.linspace(0, 1, frames, device=style.device)
    parts = [
        editor.between((style, points), some, settings, seed, freeze) for some in shares.split(batch_size)
    ]
    made = torch.cat([part.x for part in parts])
    ends = None if x is None else chamfer(made[[0, -1]], editor.reconstruct(x[:2])).tolist()
    return made.cpu().numpy(), parts[0].nfe + 2 * there / frames, ends


def variations(
    editor: Editor,
    x: Tensor,
    tau: tuple[int, int],
    variants: int,
    settings: Sample,
    seed: int,
    batch_size: int,
    report: Report,
) -> tuple[np.ndarray, float]:
    """(B (1 + variants), N, 3): each cloud's reconstruction, then its variations; and network calls a variation."""
    made, nfe = [], 0.0
    for row, cloud in enumerate(x.split(1)):
        made.append(editor.reconstruct(cloud).cpu())
        for first in range(0, variants, batch_size):
            rows = range(row * variants + first, row * variants + min(first + batch_size, variants))
            edited = editor.varied(cloud.expand(len(rows), -1, -1), tau, settings, seed, rows)
            made.append(edited.x.cpu())
            nfe = edited.nfe
        report(row + 1, len(x), {})
    return torch.cat(made).numpy(), nfe


def samples_of(module: LionModule, editor: Editor, settings: Sample, seed: int, count: int) -> Tensor:
    """(count, N, 3) samples of the run, from noise."""
    request = SampleRequest(seed, range(count), None, settings, device=module.device)
    style = editor.generation.style(request, editor.condition(count)).x
    points = editor.generation.points(request, style, editor.condition(count)).x
    return editor.decode(style, points)


def read_clouds(source: str, module: LionModule, known: DataConfig, count: int | None, seed: int) -> Tensor:
    """(B, N, 3) of INPUT, in the units that the model was trained in: a samples file's are taken to be in them.

    Raises:
        UserError: no clouds, or voxels for a model that was not fine-tuned for them.
    """
    if source.endswith(".npy"):
        return voxel_cloud(source, module, seed)
    if source == known.name or source in SETS:
        dataset = open_set(known if source == known.name else parse_source(source), "test")
        if dataset.spec.kind != "points":
            raise UserError(f"expected clouds of points; this is {dataset.spec.kind} data", source)
        # as many points as the model makes: a set may hold more, for training to choose among
        return dataset.take(range(min(count or len(dataset), len(dataset)))).x[:, : module.points]
    found = read_samples(source)
    if found.kind != "points":
        raise UserError(f"expected clouds (N, points, 3) float32, found samples of kind {found.kind}", source)
    return torch.from_numpy(found.array[:count])


def voxel_cloud(path: str, module: LionModule, seed: int) -> Tensor:
    """(1, N, 3): centres of the occupied voxels of a boolean grid, the grid's middle at 0, drawn as in fine-tuning.

    Raises:
        UserError: no grid, an empty one, or a model that does not know voxels.
    """
    guided = module.recipe.model.guided
    if guided is None or not isinstance(guided.input, VoxelInput):
        raise UserError("voxels are for a run fine-tuned on them: model.guided with the input voxels", path)
    try:
        grid = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError("no such file", path) from None
    except (OSError, ValueError, EOFError) as error:
        raise CorruptError(f"cannot be read as .npy without pickle ({error})", path) from None
    if grid.ndim != 3 or grid.dtype != np.bool_:
        raise UserError(f"expected a boolean grid (X, Y, Z), found {grid.dtype} of shape {grid.shape}", path)
    occupied = np.argwhere(grid)
    if len(occupied) == 0:
        raise UserError("the grid is empty", path)
    centres = (occupied - (np.array(grid.shape) - 1) / 2) * guided.input.size
    generator = torch.Generator().manual_seed(mix(seed, "voxels"))
    return drawn_points(torch.from_numpy(centres.T.astype(np.float32)), module.points, generator).T[None]


def _condition(module: LionModule, label: str | None) -> Tensor | None:
    """(1, 1) the class that the priors are told, None to tell them nothing."""
    if label is None:
        return None
    cycle = label_cycle(label, module, None, "--condition")
    if cycle is None or len(cycle) != 1:
        raise UserError(f"expected one class, not {label!r}", "--condition")
    return torch.tensor([[float(cycle[0])]], device=module.device)
