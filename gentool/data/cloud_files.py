"""Shapes stored as points: PointFlow's .npy, occupancy networks' .npz, ModelNet's .h5. No torch here."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gentool.data.arrays import checked_labels
from gentool.data.clouds import Shapes, checked, chosen_points, upright
from gentool.errors import CorruptError, UserError
from gentool.runs import h5

SYNSETS = {
    "02691156": "airplane", "02747177": "trash bin", "02773838": "bag", "02801938": "basket",
    "02808440": "bathtub", "02818832": "bed", "02828884": "bench", "02843684": "birdhouse",
    "02871439": "bookshelf", "02876657": "bottle", "02880940": "bowl", "02924116": "bus",
    "02933112": "cabinet", "02942699": "camera", "02946921": "can", "02954340": "cap",
    "02958343": "car", "02992529": "cellphone", "03001627": "chair", "03046257": "clock",
    "03085013": "keyboard", "03207941": "dishwasher", "03211117": "monitor", "03261776": "earphone",
    "03325088": "faucet", "03337140": "file cabinet", "03467517": "guitar", "03513137": "helmet",
    "03593526": "jar", "03624134": "knife", "03636649": "lamp", "03642806": "laptop",
    "03691459": "loudspeaker", "03710193": "mailbox", "03759954": "microphone", "03761084": "microwave",
    "03790512": "motorbike", "03797390": "mug", "03928116": "piano", "03938244": "pillow",
    "03948459": "pistol", "03991062": "flowerpot", "04004475": "printer", "04074963": "remote",
    "04090263": "rifle", "04099429": "rocket", "04225987": "skateboard", "04256520": "sofa",
    "04330267": "stove", "04379243": "table", "04401088": "telephone", "04460130": "tower",
    "04468005": "train", "04530566": "watercraft", "04554684": "washer",
}  # fmt: skip
"""ShapeNet's categories by WordNet synset."""


Listed = tuple[Sequence[tuple[Path, int]], tuple[str, ...]]
"""Files with their labels, and the class names."""


@dataclass(eq=False)
class StoredShapes(Shapes):
    """Shapes that lie as points in files, read when they are asked for.

    Attributes:
        load: the stored points of shape i.
        load_normals: the normals at these points, of any length; None where none are stored.
        up: the axis that points up in the files.
        training: how many of the first points the draws of training choose among; None: all.
    """

    load: Callable[[int], np.ndarray] = lambda i: np.empty((0, 3))
    load_normals: Callable[[int], np.ndarray] | None = None
    up: str = "y"
    training: int | None = None

    @classmethod
    def of(
        cls,
        where: str,
        listed: Listed,
        read: Callable[[Path], np.ndarray],
        *,
        up: str,
        training: int | None = None,
        read_normals: Callable[[Path], np.ndarray] | None = None,
    ) -> StoredShapes:
        """A shape a file."""
        files, class_names = listed
        names, labels = [str(file) for file, _ in files], np.array([label for _, label in files], np.int64)
        found = cls(
            where, names, labels, class_names, load=lambda i: read(files[i][0]), up=up, training=training
        )
        if read_normals is not None:
            found.load_normals = lambda i: read_normals(files[i][0])
        return found

    def pool(self, i: int) -> np.ndarray:
        return upright(checked(self.load(i), self.names[i]), self.up)

    def drawn_from(self, i: int, view: int | None) -> np.ndarray:
        return self.pool(i)[: None if view is None else self.training]

    @property
    def has_normals(self) -> bool:
        return self.load_normals is not None

    def oriented(self, i: int, count: int, view: int | None) -> np.ndarray:
        assert self.load_normals is not None
        points, normals = self.drawn_from(i, view), self.load_normals(i)
        chosen = chosen_points(len(points), i, count, view)
        if normals.ndim != 2 or normals.shape[1] != 3 or len(normals) < len(points):
            raise CorruptError(
                f"expected a normal (3,) for each point, found {normals.shape} of {len(points)}",
                self.names[i],
            )
        turned = upright(normals[chosen].astype(np.float32), self.up)
        lengths = np.linalg.norm(turned, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise CorruptError("a normal is zero, NaN or infinite", self.names[i])
        return np.concatenate([points[chosen], turned / lengths], 1)


def folder_of(path: str, what: str) -> Path:
    """The folder `path`; raises UserError, saying what it should hold, where there is none."""
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"no such folder; expected {what}", path)
    return folder


def by_category(
    path: str, wanted: Sequence[int | str] | None, files: Callable[[Path], Sequence[Path]]
) -> Listed:
    """The files of each category folder, with the category's number, and the categories' names.

    Synsets go by their English name. Folders of categories that are not asked for are listed, never read.

    Raises:
        UserError: no folder, no categories, or one of `wanted` is missing; lists what exists.
    """
    folder = folder_of(path, "a folder per category")
    found = {SYNSETS.get(sub.name, sub.name): sub for sub in folder.iterdir() if sub.is_dir()}
    if not found:
        raise UserError("holds no category folders, such as 02691156 (airplane)", path)
    names = tuple(sorted(found))
    for name in wanted or ():
        if isinstance(name, str) and name not in found:
            raise UserError(f"no category {name!r}; there are {', '.join(names)}", path)
    used = [k for k, name in enumerate(names) if wanted is None or name in wanted or k in wanted]
    return [(file, k) for k in used for file in files(found[names[k]])], names


def read_array(path: Path, key: str | None = None) -> np.ndarray:
    """An array of an .npy, or `key` of an .npz, without pickle.

    Raises:
        CorruptError: damaged, pickled, or without the key.
    """
    try:
        found = np.load(path, allow_pickle=False)
        if key is None:
            return found
        with found:
            return found[key]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CorruptError(f"cannot be read without pickle ({error})", str(path)) from error


def h5_clouds(folder: Path, split: str, up: str) -> StoredShapes:
    """Clouds of ModelNet's ply_data_{train,test}*.h5: `data` (N, P, 3), `label`, and `normal` (N, P, 3) where it is
    there; names in shape_names.txt.

    Raises:
        UserError: no files of the split. CorruptError: damaged ones.
    """
    files = sorted(folder.glob(f"ply_data_{split}*.h5"))
    if not files:
        there = ", ".join(sorted(file.name for file in folder.glob("ply_data_*.h5")))
        raise UserError(f"has no ply_data_{split}*.h5; there is {there}", str(folder))
    read = [_h5_arrays(file) for file in files]
    clouds, labels = (np.concatenate([arrays[k] for arrays in read]) for k in (0, 1))
    given = [normals for _, _, normals in read if normals is not None]
    names = [f"{file} row {row}" for file, (_, label, _) in zip(files, read) for row in range(len(label))]
    listed = folder / "shape_names.txt"
    class_names = None
    if listed.is_file():
        class_names = tuple(line.strip() for line in listed.read_text().splitlines() if line.strip())
    marks, shown = checked_labels(str(folder), labels, len(clouds), class_names)
    found = StoredShapes(str(folder), names, marks, shown, load=lambda i: clouds[i], up=up)
    if len(given) == len(read):
        normals = np.concatenate(given)
        found.load_normals = lambda i: normals[i]
    return found


def _h5_arrays(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    with h5.open_rows(path) as file:
        data, label, normal = (h5.dataset(file, key) for key in ("data", "label", "normal"))
        if data is None or label is None:
            raise CorruptError("expected the data sets data and label", str(path))
        with h5.plain_faults(str(path)):
            clouds, labels = data[()], label[()].reshape(-1).astype(np.int64)
            normals = None if normal is None else normal[()]
    if clouds.ndim != 3 or clouds.shape[2] != 3 or len(clouds) != len(labels):
        raise CorruptError(f"data {clouds.shape} and label {labels.shape} do not fit", str(path))
    if normals is not None and normals.shape != clouds.shape:
        raise CorruptError(f"data {clouds.shape} and normal {normals.shape} do not fit", str(path))
    return clouds, labels, normals
