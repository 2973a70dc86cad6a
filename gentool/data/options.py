"""Options that data sets share. No torch, no numpy: a recipe is validated in an instant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from gentool.data.fetch import Remote, data_root
from gentool.data.spec import DataSpec, Fault
from gentool.recipes.schema import Positive, Strict

if TYPE_CHECKING:
    from gentool.data.source import Source

Split = Literal["train", "test"]


class DataConfig(Strict):
    """Base of every data set's block of a recipe; a subclass types `name` as a Literal.

    A data set is one file in `gentool/data/sets/` with such a class, and one line in
    `gentool/data/config.py`; third parties add the class through an entry point of the group
    `gentool.data`.
    """

    name: str
    """Which data set; `gentool data list`."""
    batch_size: Positive = 64
    """Examples per step, over all devices together."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Loading processes per device; sets that fit in memory need none and use none."""
    held_out: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share kept from training as `test`, the same share of each class, fixed for ever; absent: the set's own
    test part where it has one, else a tenth."""
    limit: Positive | None = None
    """Use only this many examples of each split, chosen at random but always the same; absent: all."""
    classes: tuple[int | str, ...] | None = None
    """Only these classes, by number or name, renumbered in this order; absent: all."""

    what: ClassVar[str]
    """One line for `gentool data list`."""
    origin: ClassVar[str]
    """Where the data come from."""
    remotes: ClassVar[tuple[Remote, ...]] = ()
    """What `gentool data fetch` downloads."""
    not_content: ClassVar[frozenset[str]] = frozenset({"name", "batch_size", "workers", "root", "path"})
    """Options that change no example; all others enter the fingerprint."""

    def has_test(self) -> bool:
        """Whether the set brings a test part of its own."""
        return False

    def source(self, split: Split) -> Source:
        """The raw examples of a split; `test` is asked for only where `has_test`."""
        raise NotImplementedError

    def faults(self) -> Iterator[Fault]:
        """Every bad file, row or label of the set, for `gentool data check`."""
        yield from self.source("train").faults()
        if self.has_test():
            yield from self.source("test").faults()

    def present(self) -> bool:
        """Whether the data are on this machine."""
        return True

    def expected_spec(self) -> DataSpec | None:
        """What the examples are, known without the files; None where only the files can say."""
        return None

    def published(self) -> int | None:
        """How many training examples the set is known to have, before any are held out; None: unknown."""
        return None

    def public_records(self) -> int | None:
        """The number of training examples by what is published of the set, without a look at the files.

        None where only they can say: a folder of one's own, or a choice of classes.
        """
        count = self.published()
        if count is None or self.classes is not None:
            return None
        share = self.held_out or (0.0 if self.has_test() else 0.1)
        kept = count - round(share * count)
        return kept if self.limit is None else min(self.limit, kept)

    def content_options(self) -> dict[str, Any]:
        """What the fingerprint takes from the options."""
        return self.model_dump(mode="json", exclude=set(self.not_content), exclude_defaults=True)


class ImageConfig(DataConfig):
    """How pictures are brought to one shape: centre crop to a square, then resize, then pad."""

    size: Positive | None = None
    """Side in pixels to resize to; absent: as they are."""
    crop: Literal["center", "none"] = "center"
    """Cut to the largest centred square first; none: pictures that are resized must be square."""
    filter: Literal["lanczos", "bicubic", "bilinear", "box", "nearest"] = "lanczos"
    """Resampling filter of the resize (Pillow's, antialiased)."""
    pad: Positive | None = None
    """Side in pixels to fill up to with black, the picture in the middle (28 -> 32); absent: no padding."""

    def fitted_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of a picture brought to shape."""
        if self.crop == "center":
            width = height = min(width, height)
        if self.size is not None:
            width = height = self.size
        return (self.pad, self.pad) if self.pad is not None else (width, height)


class RootConfig(ImageConfig):
    """A named set of pictures whose files lie under a common folder."""

    original: ClassVar[tuple[int, int, int]]
    """(H, W, C) of the set's pictures."""
    class_names: ClassVar[tuple[str, ...]]
    """The set's classes, in order."""

    root: str | None = None
    """Folder with the set's files, or with a folder of the set's name; absent: $GENTOOL_DATA or ./.data."""

    def folder(self) -> Path:
        """The common folder."""
        return data_root(self.root)

    def home(self) -> Path:
        """The set's own folder, where `gentool data fetch` puts its files."""
        return self.folder() / self.name

    def expected_spec(self) -> DataSpec:
        """From what is published of the set; a dry run needs no download."""
        from gentool.data.choice import class_numbers  # here, not above: it imports numpy

        names = self.class_names
        if self.classes is not None:
            names = tuple(names[k] for k in class_numbers(self.classes, names, f"data set {self.name}"))
        high, wide, channels = self.original
        width, height = self.fitted_size(wide, high)
        return DataSpec("image", (channels, height, width), len(names), names)
