"""`images`: a folder, tar or zip of pictures.

Layouts:
    a/1.png b/2.png ...                     a class per first subfolder
    train/a/1.png test/a/2.png ...          the same with a test part of its own (without test/: val/)
    1.png 2.png ...                         no labels
    dataset.json beside or above them       labels as EDM packs them: {"labels": [[name, class], ...]}
One folder that holds everything (`mydata/a/1.png`) is looked through.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal
from weakref import WeakValueDictionary

import numpy as np

from gentool.data import pictures
from gentool.data.archive import Tree, open_tree, scan_tree
from gentool.data.options import ImageConfig, Split
from gentool.data.source import DataSpec, Fault, Source, checked_labels
from gentool.errors import CorruptError, UserError
from gentool.recipes.schema import Positive

TEST_FOLDERS = ("test", "val", "valid", "validation")
"""The first of these beside train/ is the test part; with test/ there, val/ is left out."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


class ImagesConfig(ImageConfig):
    """Pictures in a folder, tar or zip file."""

    name: Literal["images"] = "images"
    """A folder, tar or zip of pictures."""
    path: str
    """The folder, .tar (also .gz, .xz, .bz2) or .zip; a class per subfolder; train/ and test/."""
    channels: Literal[1, 3] | None = None
    """Gray or RGB; absent: RGB as soon as one picture has colour."""

    class_count: Positive | None = None
    """How many classes the folders must give: checked when they are read, and what a dry run without them goes by."""

    what: ClassVar[str] = "your pictures: a folder, tar or zip, a class per subfolder"
    origin: ClassVar[str] = "path"

    def has_test(self) -> bool:
        return bool(open_layout(self.path).rows("test"))

    def source(self, split: Split) -> Source:
        layout = open_layout(self.path)
        source = PictureSource(layout, layout.rows(split), self, self.channels)
        if self.class_count is not None and source.spec.classes != self.class_count:
            raise UserError(
                f"found {source.spec.classes} class folders, but data.class_count is {self.class_count}",
                self.path,
            )
        return source

    def present(self) -> bool:
        return Path(self.path).exists()

    def expected_spec(self) -> DataSpec | None:
        side = self.pad or self.size
        if side is None:
            return None
        names = tuple(map(str, range(self.class_count or 0)))
        return DataSpec("image", (self.channels or 3, side, side), len(names), names)

    def faults(self) -> Iterator[Fault]:
        return picture_faults(self.path, self, self.channels)


class Layout:
    """Which files of a tree are pictures, of which split and which class."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        names = [name for name in tree.names if _is_picture(name)]
        if not names:
            kinds = ", ".join(SUFFIXES)
            raise UserError(f"no pictures in there; expected {kinds}, a class per subfolder", str(tree.path))
        self.prefix = _wrapper(names)
        self.short = {name: name[len(self.prefix) :] for name in names}
        tops = {short.partition("/")[0] if "/" in short else "" for short in self.short.values()}
        self.split = "train" in tops and tops <= {"train", *TEST_FOLDERS}
        self.test_folder = next((name for name in TEST_FOLDERS if name in tops), "")
        listed = self._listed()
        folders = {name: self._class_folder(name) for name in names} if listed is None else {}
        self.class_names = tuple(sorted({folder for folder in folders.values() if folder}))
        if self.class_names and not all(folders.values()):
            stray = next(name for name, folder in folders.items() if not folder)
            raise UserError(
                "lies beside the class folders; put every picture in a class folder, or none",
                tree.where(stray),
            )
        if listed is not None:
            self.label = listed
            self.class_names = tuple(map(str, range(max(listed.values(), default=-1) + 1)))
        else:
            number = {name: i for i, name in enumerate(self.class_names)}
            self.label = {name: number[folder] for name, folder in folders.items() if folder}

    def rows(self, split: Split) -> list[str]:
        """The pictures of a split, sorted by name; without a test part all are `train`."""
        if not self.split:
            return list(self.short) if split == "train" else []
        folder = "train" if split == "train" else self.test_folder
        return [name for name, short in self.short.items() if short.partition("/")[0] == folder]

    def _class_folder(self, name: str) -> str:
        parts = self.short[name].split("/")[1 if self.split else 0 :]
        return parts[0] if len(parts) > 1 else ""

    def _listed(self) -> dict[str, int] | None:
        """Labels from dataset.json; None without one or where it lists none."""
        index = self.prefix + "dataset.json"
        if index not in self.tree.names:
            return None
        try:
            pairs = json.loads(self.tree.read(index))["labels"]
            given = {str(file): int(label) for file, label in pairs} if pairs is not None else None
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptError(
                f'expected {{"labels": [[file, class], ...]}} ({error})', self.tree.where(index)
            ) from error
        if given is None:
            return {}
        missing = [name for name, short in self.short.items() if short not in given]
        if missing:
            raise CorruptError(
                f"{len(missing)} pictures have no label in dataset.json", self.tree.where(missing[0])
            )
        return {name: given[short] for name, short in self.short.items()}


def _is_picture(name: str) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    return not hidden and name.lower().endswith(SUFFIXES)


def _wrapper(names: list[str]) -> str:
    """`mydata/` where all pictures lie in folders of that one folder; `` otherwise."""
    top = names[0].split("/")[0]
    wrapped = all(name.startswith(top + "/") and name.count("/") >= 2 for name in names)
    return f"{top}/" if wrapped and top != "train" else ""


class PictureSource(Source):
    """The pictures of one split, decoded when read; headers are checked at once.

    Raises:
        CorruptError: a file that is no picture, or of a mode that no rule covers.
        UserError: pictures of several sizes and no `size` to bring them to.
    """

    def __init__(self, layout: Layout, names: list[str], options: ImageConfig, channels: int | None) -> None:
        self.layout, self.tree, self.names, self.options = layout, layout.tree, names, options
        headers = [self._header(name) for name in names]
        if channels is None:
            channels = 1 if all(gray for _, gray, _ in headers) else 3
        self.channels = channels
        sizes = {size: name for name, (size, _, _) in zip(reversed(names), reversed(headers))}
        if len(sizes) > 1:
            (a, first), (b, second) = list(sizes.items())[-1], next(iter(sizes.items()))
            raise UserError(
                f"pictures of {len(sizes)} sizes, {first} is {a[0]}x{a[1]} and {second} is {b[0]}x{b[1]}; "
                "set `size`, e.g. size: 64",
                str(self.tree.path),
            )
        (width, height) = next(iter(sizes))
        labels = [layout.label.get(name, -1) for name in names]
        where = str(self.tree.path)
        marks, class_names = checked_labels(where, np.array(labels), len(names), layout.class_names)
        spec = DataSpec("image", (channels, height, width), len(class_names), class_names)
        super().__init__(where, spec, marks, self._notes(headers))

    def _header(self, name: str) -> tuple[tuple[int, int], bool, dict[int, list[str]]]:
        where = self.tree.where(name)
        picture = pictures.open_picture(self.tree.read(name), where)
        rules = {channels: pictures.rules_used(picture, channels) for channels in (1, 3)}
        return (
            pictures.fitted_size(*pictures.upright_size(picture), self.options),
            pictures.is_gray(picture),
            rules,
        )

    def _notes(self, headers: list[tuple[tuple[int, int], bool, dict[int, list[str]]]]) -> dict[str, int]:
        return dict(Counter(rule for _, _, rules in headers for rule in rules[self.channels]))

    def read(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), *self.spec.shape), np.uint8)
        for slot, row in zip(out, rows):
            where = self.tree.where(self.names[row])
            picture = pictures.open_picture(self.tree.read(self.names[row]), where)
            pixels = pictures.decode(picture, where, self.channels, self.options)
            if pixels.shape != slot.shape:
                raise CorruptError(f"decodes to {pixels.shape}, its header promised {slot.shape}", where)
            slot[:] = pixels
        return out

    def digest(self) -> str:
        total = hashlib.sha256()
        for name, label in zip(self.names, self.labels):
            short = Path(name).name
            total.update(f"{short} {label} {hashlib.sha256(self.tree.read(name)).hexdigest()}\n".encode())
        return total.hexdigest()


_OPEN: WeakValueDictionary[tuple[str, int, int], Layout] = WeakValueDictionary()


def open_layout(path: str | Path) -> Layout:
    """The layout of a tree; an archive that is open already (for the other split) is not read again."""
    path = Path(path)
    if not path.is_file():
        return Layout(open_tree(path))
    status = path.stat()
    key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    layout = _OPEN.get(key)
    if layout is None:
        layout = _OPEN[key] = Layout(open_tree(path))
    return layout


def picture_faults(path: str | Path, options: ImageConfig, channels: int | None) -> Iterator[Fault]:
    """Every refused member, and every picture that cannot be read or is of another size than most."""
    tree = scan_tree(path)
    yield from tree.faults
    try:
        layout = Layout(tree)
    except UserError:
        if tree.faults:
            return
        raise
    shapes: dict[str, tuple[int, ...]] = {}
    for name in layout.short:
        where = tree.where(name)
        try:
            picture = pictures.open_picture(tree.read(name), where)
            shapes[where] = pictures.decode(picture, where, channels or 3, options).shape
        except (UserError, CorruptError) as error:
            yield Fault(error.where or where, error.message)
    usual = Counter(shapes.values()).most_common(1)
    for where, shape in shapes.items():
        if shape != usual[0][0]:
            (high, wide), (usual_high, usual_wide) = shape[1:], usual[0][0][1:]
            yield Fault(
                where, f"is {wide}x{high}, most are {usual_wide}x{usual_high}; set `size` to resize them"
            )
