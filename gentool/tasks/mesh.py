"""gentool mesh: clouds of points to closed meshes, one file a shape, and their picture."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gentool.data import open_set, parse_source
from gentool.data.config import SETS
from gentool.errors import UserError
from gentool.families.sap.module import SapModule
from gentool.points.meshing import MeshOptions, Orient, UnusableCloudError, by_planes, mesh_of
from gentool.runs.atomic import check_writable, write_json
from gentool.runs.mesh_files import SUFFIXES, Mesh, write_mesh
from gentool.runs.mesh_pictures import tiles
from gentool.runs.provenance import describe_machine
from gentool.runs.samples import read_samples, write_samples
from gentool.runs.weights import fingerprint
from gentool.tasks.model.load import best_device, load_run
from gentool.training.watching import Report, Say, unreported, unsaid

PICTURE = "meshes.png"
QUICK = MeshOptions()


@dataclass(frozen=True)
class Meshed:
    """What was written: the folder or file, its picture, and how many of the clouds became meshes."""

    path: Path
    picture: Path
    count: int
    skipped: tuple[str, ...]
    how: dict[str, Any]
    vertices: int
    faces: int
    seconds: float

    def document(self) -> dict[str, Any]:
        """What `gentool mesh --json` prints."""
        return {
            "path": str(self.path),
            "picture": str(self.picture),
            "count": self.count,
            "skipped": list(self.skipped),
            **self.how,
            "vertices": self.vertices,
            "faces": self.faces,
            "seconds": round(self.seconds, 3),
        }


def mesh_file(
    source: str,
    *,
    out: Path | None = None,
    mesher: str | None = None,
    options: MeshOptions = QUICK,
    suffix: str = ".ply",
    count: int | None = None,
    report: Report = unreported,
    say: Say = unsaid,
) -> Meshed:
    """Meshes of the clouds in a samples file, or of a data set's test part.

    Args:
        count: the first so many.
        The rest: as of `mesh_clouds`; without `out` the folder is named after the source and lies beside it.

    Raises:
        UserError, CorruptError: no clouds, or as `mesh_clouds`.
    """
    check_options(options, suffix)
    if source in SETS or ":" in source:
        dataset = open_set(parse_source(source), "test")
        if dataset.spec.kind != "points":
            raise UserError(f"expected clouds of points; this is {dataset.spec.kind} data", source)
        batch = dataset.take(range(min(count or len(dataset), len(dataset))))
        clouds, labels = batch.x.numpy()[..., :3], batch.label.numpy()
    else:
        found = read_samples(source)
        if found.kind != "points":
            raise UserError(
                f"expected clouds (N, points, 3) float32, found samples of kind {found.kind}", source
            )
        clouds, marks = found.array[:count], found.labels
        labels = np.zeros(len(clouds), np.int64) if marks is None else marks[:count]
    out = out or Path(
        f"{Path(source).with_suffix('')}-meshes" if Path(source).exists() else f"{source}-meshes"
    )
    return mesh_clouds(
        clouds,
        labels,
        out,
        source=source,
        mesher=mesher,
        options=options,
        suffix=suffix,
        report=report,
        say=say,
    )


def check_options(options: MeshOptions, suffix: str) -> None:
    """Refuses what cannot be done, before any work.

    Raises:
        UserError: says which.
    """
    nodes = options.resolution
    if nodes is not None and (nodes < 8 or nodes % 2 or nodes > 512):
        raise UserError(f"expected an even number from 8 to 512, not {nodes}", "--resolution")
    if not 0 <= options.sigma <= options.nodes(0) / 4:
        raise UserError(f"expected 0 to a quarter of the resolution, not {options.sigma:g}", "--sigma")
    if suffix not in SUFFIXES:
        raise UserError(f"expected {' or '.join(s[1:] for s in SUFFIXES)}, not {suffix[1:]!r}", "--format")
    if find_spec("skimage") is None:
        raise UserError("extracting meshes needs scikit-image: install gentool[mesh]")


def check_place(out: Path, count: int) -> None:
    """Refuses an output that cannot hold so many meshes.

    Raises:
        UserError: another suffix, one file for several meshes, or a folder with other things in it.
    """
    suffix = out.suffix.lower()
    if suffix in SUFFIXES and count != 1:
        raise UserError(f"one file for {count} meshes: name a folder, or take --count 1", str(out))
    if suffix not in ("", ".png", *SUFFIXES):
        raise UserError(f"cannot write meshes as {suffix}; use a folder, .ply, .obj or .png", str(out))
    if (
        suffix == ""
        and out.exists()
        and not (out.is_dir() and ((out / PICTURE).is_file() or not any(out.iterdir())))
    ):
        raise UserError("exists and holds other things; name a new folder", str(out))
    check_writable(out.absolute().parent)


def mesh_clouds(
    clouds: np.ndarray,
    labels: np.ndarray | None,
    out: Path,
    *,
    source: str,
    mesher: str | None = None,
    options: MeshOptions = QUICK,
    suffix: str = ".ply",
    report: Report = unreported,
    say: Say = unsaid,
) -> Meshed:
    """Writes a mesh of each cloud, in the cloud's own units.

    Args:
        clouds: (N, P, 3). labels: (N,), the colours of the picture.
        out: a folder for NNNNNN.ply (or .obj), meshes.png and provenance.json; a .ply or .obj for one mesh; a .png for
            the picture alone.
        mesher: the run of the family sap whose network says which way points face; None estimates it.

    Raises:
        UserError: an unusable output or mesher, no scikit-image, or none of the clouds can be meshed.
    """
    started = time.perf_counter()
    check_options(options, suffix)
    check_place(out, len(clouds))
    how: dict[str, Any] = {"mesher": "planes" if mesher is None else mesher}
    device = best_device()
    orient: Orient = by_planes
    if mesher is not None:
        how["mesher_sha256"], orient, nodes = trained_orient(mesher, device)
        options = replace(options, resolution=options.resolution or nodes)
    how |= {"resolution": options.nodes(clouds.shape[1]), "sigma": options.sigma}
    how |= {"steps": options.steps, "seed": options.seed}
    made: dict[int, Mesh] = {}
    skipped: list[str] = []
    with torch.no_grad():
        for i, cloud in enumerate(clouds):
            try:
                made[i] = mesh_of(torch.from_numpy(np.ascontiguousarray(cloud)).to(device), options, orient)
            except UnusableCloudError as error:
                skipped.append(f"cloud {i}: {error}")
                say(f"warning: {source}: cloud {i} {error}; left out")
            report(i + 1, len(clouds), {})
    if not made:
        raise UserError(f"none of its {len(clouds)} clouds can be meshed: {skipped[0]}", source)
    picture = write(made, labels, out, suffix, {**describe_machine(), "source": source, "mesh": how})
    vertices, faces = (sum(len(part[k]) for part in made.values()) for k in (0, 1))
    seconds = time.perf_counter() - started
    return Meshed(out, picture, len(made), tuple(skipped), how, vertices, faces, seconds)


def trained_orient(mesher: str, device: torch.device) -> tuple[str, Orient, int]:
    """The digest of the weights of a run of the family sap, its network, and the resolution that it was trained for.

    Raises:
        UserError: a run of another family.
    """
    run, resolved, module = load_run(mesher)
    if not isinstance(module, SapModule):
        raise UserError(f"meshes are for a run of the family sap, not {resolved.recipe.family}", "--mesher")
    return fingerprint(run.weights), module.to(device).oriented, module.recipe.model.resolution


def write(
    made: dict[int, Mesh], labels: np.ndarray | None, out: Path, suffix: str, provenance: dict[str, Any]
) -> Path:
    """Writes the meshes under their numbers; returns the picture's path."""
    kinds = None if labels is None else labels[list(made)].clip(min=0)
    sheet, folder = tiles(list(made.values()), kinds), out.suffix == ""
    if folder:
        out.mkdir(parents=True, exist_ok=True)
        for old in (*out.glob("[0-9]*.ply"), *out.glob("[0-9]*.obj")):  # of an earlier call
            old.unlink()
        for i, mesh in made.items():
            write_mesh(out / f"{i:06}{suffix}", mesh, "gentool mesh")
        write_json(out / "provenance.json", provenance)
    elif out.suffix.lower() in SUFFIXES:
        write_mesh(out, next(iter(made.values())), "gentool mesh")
    return write_samples(out / PICTURE if folder else out.with_suffix(".png"), sheet, None, provenance)
