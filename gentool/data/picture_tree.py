"""Trees of picture files: which file is of which split and class, and their pixels.

The layouts are those that `gentool.data.sets.images` lists.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np

from gentool.data import pictures
from gentool.data.archive import Tree, open_tree, scan_tree
from gentool.data.arrays import checked_labels
from gentool.data.options import ImageConfig, Split
from gentool.data.source import Source
from gentool.data.spec import DataSpec, Fault
from gentool.errors import CorruptError, UserError

TEST_FOLDERS = ("test", "val", "valid", "validation")
"""The first of these beside train/ is the test part; with test/ there, val/ is left out."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


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

    Args:
        skip_bad: decode every picture at once, and leave out those that cannot be read.

    Raises:
        CorruptError: a file that is no picture, or of a mode that no rule covers; with `skip_bad`, only when no
            picture is left.
        UserError: pictures of several sizes and no `size` to bring them to.
    """

    def __init__(
        self,
        layout: Layout,
        names: list[str],
        options: ImageConfig,
        channels: int | None,
        *,
        skip_bad: bool = False,
    ) -> None:
        self.layout, self.tree, self.options = layout, layout.tree, options
        skipped: list[Fault] = []
        if skip_bad:
            names = self._readable(names, channels or 3, skipped)
        self.names = names
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
        super().__init__(where, spec, marks, self._notes(headers), tuple(skipped))

    def _readable(self, names: list[str], channels: int, skipped: list[Fault]) -> list[str]:
        """The pictures that decode; the others go to `skipped`."""
        good = []
        for name in names:
            where = self.tree.where(name)
            try:
                pictures.decode(
                    pictures.open_picture(self.tree.read(name), where), where, channels, self.options
                )
            except CorruptError as error:
                skipped.append(Fault(error.where or where, error.message))
            else:
                good.append(name)
        if names and not good:
            raise CorruptError(
                f"none of the {len(names)} pictures can be read; the first: {skipped[0].message}",
                skipped[0].where,
            )
        return good

    def _header(self, name: str) -> tuple[tuple[int, int], bool, dict[int, list[str]]]:
        where = self.tree.where(name)
        picture = pictures.open_picture(self.tree.read(name), where)
        rules = {channels: pictures.rules_used(picture, channels) for channels in (1, 3)}
        return (
            self.options.fitted_size(*pictures.upright_size(picture)),
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
