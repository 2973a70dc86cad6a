"""What commands that change pictures share: INPUT fitted to the model, brought back, read, written, and told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gentool.data.config import DataConfig
from gentool.tasks.pictures.read import Pictures, Split, fit_shape, read_pictures, resized
from gentool.tasks.pictures.readings import Readings, load_judge, read_both
from gentool.tasks.pictures.write import write_pictures
from gentool.training.module import GenModule
from gentool.training.watching import Say


@dataclass(frozen=True, kw_only=True)
class Changed:
    """The file, its panel, and what was done and measured.

    Attributes:
        how: the settings, as the file's provenance has them.
        moved: root mean square change of a pixel in [-1, 1].
        readings: a classifier's, where one was named.
    """

    path: Path
    panel: Path
    count: int
    how: dict[str, Any]
    moved: float
    seconds: float
    readings: Readings | None

    def figures(self) -> dict[str, Any]:
        """What was measured, readings apart."""
        return {"moved": self.moved}

    def document(self) -> dict[str, Any]:
        """What the command's `--json` prints."""
        return {
            "path": str(self.path),
            "panel": str(self.panel),
            "count": self.count,
            **self.how,
            **self.figures(),
            "seconds": round(self.seconds, 3),
            "classifier": None if self.readings is None else self.readings.document(),
        }


@dataclass(frozen=True)
class Intake:
    """What is taken of INPUT, and how, as the user says it.

    Attributes:
        split, count: of a data set: which part, and how many.
        classifier: a run whose readings before and after are compared.
        resize, repeat_channels: how pictures of another shape are brought to the model's, and back in size.
    """

    split: Split = "test"
    count: int | None = None
    classifier: str | None = None
    resize: bool = False
    repeat_channels: bool = False


@dataclass(frozen=True)
class Subject:
    """INPUT as it came, and as the model takes it.

    Attributes:
        found: as it came.
        x: (N, C, H, W) float32 in [-1, 1], in the model's shape.
        readings: a classifier's of pictures (before, after), in the size they came in; None where none is asked.
    """

    found: Pictures
    x: Tensor
    readings: Callable[[Tensor, Tensor], Readings] | None

    @classmethod
    def read(cls, source: str, module: GenModule, intake: Intake, *, known: DataConfig, say: Say) -> Subject:
        """Reads INPUT for a module, on whose device the classifier works.

        Args:
            known, say: as of `read_pictures`.

        Raises:
            UserError, CorruptError: as of `read_pictures`, `fit_shape` and `load_judge`.
        """
        found = read_pictures(source, known=known, split=intake.split, count=intake.count, say=say)
        shape = module.spec.shape
        x = fit_shape(
            found.x, shape, found.name, resize=intake.resize, repeat_channels=intake.repeat_channels
        )
        if intake.classifier is None:
            return cls(found, x, None)
        judge = load_judge(intake.classifier, (shape[0], *found.x.shape[2:]), module.device)
        return cls(found, x, lambda before, after: read_both(*judge, before, after, found.labels))

    def write(
        self, out: Path, after: Tensor, provenance: dict[str, Any], *, difference: bool = False
    ) -> tuple[Path, float, Readings | None]:
        """Brings the changed pictures (N, C, H, W) back to the size they came in, and writes them with their panel.

        Returns:
            The panel, the root mean square change, and what the classifier reads.
        """
        before, size = self.x, (self.found.x.shape[2], self.found.x.shape[3])
        if size != tuple(after.shape[2:]):
            same_channels = before.shape[1] == self.found.x.shape[1]
            before, after = self.found.x if same_channels else resized(before, size), resized(after, size)
        read = None if self.readings is None else self.readings(before, after)
        panel = write_pictures(out, self.found, before, after, provenance, difference=difference)
        return panel, float((after - before).square().mean().sqrt()), read
