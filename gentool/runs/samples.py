"""Sample files: what `gentool sample` writes and every judge reads, by the output's name.

.h5     /samples, /labels, provenance as attributes          read back
.npz    arr_0, arr_1 (labels), provenance (JSON text)        read back; the format other evaluators read
.ply    point clouds                                         read back
folder  000000.png ..., dataset.json (labels), provenance.json   read back; also an `images` data set
.png    a grid of images or shaded clouds, or a scatter plot of 2-d vectors   for the eye
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gentool.errors import CorruptError, GentoolError, UserError
from gentool.runs import h5
from gentool.runs.atomic import atomic_write

Kind = Literal["image", "vector", "points"]
_KINDS: dict[str, tuple[Kind, ...]] = {
    ".h5": ("image", "vector", "points"),
    ".hdf5": ("image", "vector", "points"),
    ".npz": ("image", "vector", "points"),
    ".png": ("image", "vector", "points"),
    ".ply": ("points",),
    "": ("image",),
}
_OF_A_FOLDER = re.compile(r"\d{6,}\.png|dataset\.json|provenance\.json")
"""The files that `picture_folder.write_folder` writes."""


@dataclass(frozen=True)
class Samples:
    """Samples with their labels.

    Attributes:
        array: images (N, H, W, C) uint8, vectors (N, D) float32 or clouds (N, P, 3) float32.
        labels: (N,) int64, -1 for none; or None.
        provenance: where they come from, as JSON values.
    """

    array: np.ndarray
    labels: np.ndarray | None
    provenance: dict[str, Any]

    @property
    def kind(self) -> Kind:
        return kind_of(self.array)


def kind_of(array: np.ndarray) -> Kind:
    """What an array of samples holds, by dtype and rank.

    Raises:
        ValueError: none of the three layouts of this module; the message says which arrays are.
    """
    if array.dtype == np.uint8 and array.ndim == 4 and array.shape[-1] in (1, 3):
        return "image"
    if array.dtype == np.float32 and array.ndim == 3 and array.shape[-1] == 3:
        return "points"
    if array.dtype == np.float32 and array.ndim == 2:
        return "vector"
    hint = (
        "; this looks like (N, C, H, W): move the channels last" if array.shape[1:2] in ((1,), (3,)) else ""
    )
    raise ValueError(
        "expected images (N, H, W, 1 or 3) uint8, vectors (N, D) float32 or clouds (N, points, 3) float32, "
        f"found {array.shape} {array.dtype}{hint if array.ndim == 4 else ''}"
    )


def check_output(path: str | Path, kind: Kind) -> None:
    """Refuses an output that cannot hold `kind`; call it before the long work.

    Raises:
        UserError: unknown suffix, a suffix for another kind, or a folder with other things in it.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _KINDS:
        raise UserError(f"cannot write samples as {suffix}; use .h5, .npz, .png, .ply or a folder", str(path))
    if kind not in _KINDS[suffix]:
        able = " or ".join(s or "a folder" for s, kinds in _KINDS.items() if kind in kinds)
        raise UserError(f"cannot hold samples of kind {kind}; use {able}", str(path))
    if suffix == "" and path.exists() and not _ours(path):
        raise UserError("exists and holds other things; name a new folder", str(path))


def write_samples(
    path: str | Path,
    samples: np.ndarray,
    labels: np.ndarray | None = None,
    provenance: dict[str, Any] | None = None,
) -> Path:
    """Writes samples atomically in the format that the name asks for (see the module's table).

    Args:
        samples: (N, H, W, C) uint8, (N, D) float32 or (N, P, 3) float32, N >= 1.
        labels: (N,) integers, -1 for none.
        provenance: JSON values; kept in every format.

    Raises:
        UserError: see `check_output`; 2-d plots want 2-d vectors.
        GentoolError: NaN or infinity among the samples, or the disk refuses.
        ValueError: another shape or dtype.
    """
    path, samples, note = Path(path), np.asarray(samples), dict(provenance or {})
    kind = kind_of(samples)
    if len(samples) == 0:
        raise ValueError("no samples to write")
    if labels is not None:
        labels = np.asarray(labels, np.int64)
        if labels.shape != (len(samples),):
            raise ValueError(f"expected {len(samples)} labels, found {labels.shape}")
    check_output(path, kind)
    if bad := int((~np.isfinite(samples.reshape(len(samples), -1)).all(1)).sum()) if kind != "image" else 0:
        raise GentoolError(f"{bad} of {len(samples)} samples hold NaN or infinity; not written", str(path))
    _WRITERS[path.suffix.lower()](path, samples, labels, note)
    return path


def read_samples(path: str | Path) -> Samples:
    """Reads what `write_samples` wrote, and any `.npz` or `.h5` of the same layout.

    Raises:
        UserError: no such file, or a format for the eye only.
        CorruptError: truncated, changed bytes, pickled objects, NaN, or another layout.
    """
    return _checked(Path(path), read_arrays(path))


def read_arrays(path: str | Path) -> Samples:
    """The arrays of a samples file as they lie there: of any shape and type, for the caller to judge.

    Raises:
        UserError: no such file, or a format for the eye only.
        CorruptError: truncated, changed bytes, pickled objects.
    """
    path = Path(path)
    if path.is_dir():
        from gentool.runs.picture_folder import read_folder

        return Samples(*read_folder(path))
    if path.suffix.lower() not in (".h5", ".hdf5", ".npz", ".ply"):
        raise UserError("cannot be read back; expected .h5, .npz, .ply or a folder of PNGs", str(path))
    if not path.is_file():
        raise UserError("no such file", str(path))
    if path.suffix.lower() == ".npz":
        return _read_npz(path)
    if path.suffix.lower() == ".ply":
        from gentool.runs.ply import read_ply

        return Samples(*read_ply(path))
    return _read_h5(path)


def _checked(path: Path, found: Samples) -> Samples:
    try:
        kind = found.kind
    except ValueError as error:
        floats = (
            f" in [{found.array.min():g}, {found.array.max():g}]" if found.array.dtype.kind == "f" else ""
        )
        raise CorruptError(f"{error}{floats}", str(path)) from error
    if len(found.array) == 0:
        raise CorruptError("holds no samples", str(path))
    if kind != "image" and not np.isfinite(found.array).all():
        row = int(np.flatnonzero(~np.isfinite(found.array.reshape(len(found.array), -1)).all(1))[0])
        raise CorruptError(f"row {row} holds NaN or infinity", str(path))
    if found.labels is not None and found.labels.shape != (len(found.array),):
        raise CorruptError(f"{len(found.array)} samples but labels of shape {found.labels.shape}", str(path))
    return found


def _write_h5(path: Path, samples: np.ndarray, labels: np.ndarray | None, note: dict[str, Any]) -> None:
    h5.write_rows(
        path, (samples[i : i + 1024] for i in range(0, len(samples), 1024)), len(samples), labels, note
    )


def _read_h5(path: Path) -> Samples:
    with h5.open_rows(path) as file:
        data, marks = h5.dataset(file, "samples"), h5.dataset(file, "labels")
        if data is None:
            raise CorruptError("has no /samples", str(path))
        with h5.plain_faults(f"{path}:/samples"):
            array = data[()]
        with h5.plain_faults(f"{path}:/labels"):
            labels = None if marks is None else marks[()].astype(np.int64)
        return Samples(array, labels, h5.attributes(file))


def _write_npz(path: Path, samples: np.ndarray, labels: np.ndarray | None, note: dict[str, Any]) -> None:
    arrays = {"arr_0": samples, "provenance": np.array(json.dumps(note))}
    if labels is not None:
        arrays["arr_1"] = labels
    with atomic_write(path) as scratch:
        np.savez(scratch, **arrays)  # type: ignore[arg-type]  # no array is called allow_pickle


def _read_npz(path: Path) -> Samples:
    try:
        with zipfile.ZipFile(path) as file:
            sizes = [(i.file_size, i.compress_size) for i in file.infolist()]
        if any(size > 1 << 28 and size > 200 * packed for size, packed in sizes):
            raise CorruptError("an entry unpacks to more than 200 times its size; refused", str(path))
        with np.load(path, allow_pickle=False) as arrays:
            array = next((arrays[k] for k in ("arr_0", "samples", "images", "x") if k in arrays), None)
            labels = next((arrays[k] for k in ("arr_1", "labels", "y") if k in arrays), None)
            note = json.loads(str(arrays["provenance"])) if "provenance" in arrays else {}
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        ValueError,
        EOFError,
        RuntimeError,
        SyntaxError,
    ) as error:
        raise CorruptError(f"cannot be read as .npz without pickle ({error})", str(path)) from error
    except MemoryError as error:
        raise CorruptError(f"promises more than this machine's memory ({error})", str(path)) from error
    if array is None:
        raise CorruptError("holds no array arr_0 (nor samples, images, x)", str(path))
    if labels is not None and labels.dtype.kind not in "iu":
        raise CorruptError(f"labels must be integers, found {labels.dtype}", str(path))
    if array.ndim == 3 and array.dtype == np.uint8:
        array = array[..., None]  # grayscale pictures are often stored without a channel axis
    return Samples(array, None if labels is None else labels.astype(np.int64), note)


def _write_png(path: Path, samples: np.ndarray, labels: np.ndarray | None, note: dict[str, Any]) -> None:
    from PIL.PngImagePlugin import PngInfo

    from gentool.runs.pictures import grid, scatter

    if samples.ndim == 2 and samples.shape[1] != 2:
        raise UserError(
            f"only 2-d vectors can be plotted, these have {samples.shape[1]} numbers; use .npz", str(path)
        )
    if samples.ndim == 3:
        from gentool.runs.cloud_pictures import tiles

        samples = tiles(samples, labels)
    sheet = grid(samples, labels) if samples.ndim == 4 else scatter(samples, labels)
    text = PngInfo()
    text.add_itxt("gentool", json.dumps(note, ensure_ascii=False))
    with atomic_write(path) as scratch:
        sheet.save(scratch, pnginfo=text)


def _write_ply(path: Path, samples: np.ndarray, labels: np.ndarray | None, note: dict[str, Any]) -> None:
    from gentool.runs.ply import write_ply

    write_ply(path, samples, labels, note)


def _ours(path: Path) -> bool:
    """Whether nothing lies there but samples: a folder that is replaced is gone with all that it held."""
    return path.is_dir() and all(_OF_A_FOLDER.fullmatch(item.name) for item in path.iterdir())


def _write_folder(path: Path, samples: np.ndarray, labels: np.ndarray | None, note: dict[str, Any]) -> None:
    from gentool.runs.picture_folder import write_folder

    write_folder(path, samples, labels, note)


_WRITERS: dict[str, Callable[[Path, np.ndarray, np.ndarray | None, dict[str, Any]], None]] = {
    ".h5": _write_h5,
    ".hdf5": _write_h5,
    ".npz": _write_npz,
    ".png": _write_png,
    ".ply": _write_ply,
    "": _write_folder,
}
