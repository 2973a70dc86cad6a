"""What `gentool edit --method editgan` is asked for, and how codes are found and changed accordingly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from gentool.errors import UserError
from gentool.families.editgan import editing
from gentool.families.editgan.blend import poisson_blend
from gentool.families.editgan.labels import fit_map, read_label_map
from gentool.families.editgan.losses import (
    DILATIONS,
    Maps,
    edited_classes,
    region_cross_entropy,
    region_of,
    squared,
)
from gentool.families.editgan.module import EditganModule
from gentool.families.editgan.vector import Vector, load_vector
from gentool.families.editgan.view import View
from gentool.tasks.edit.editgan_report import Figures
from gentool.training.watching import Report

FAITHFUL = 18.0
"""PSNR in dB below which a picture shows something else than the photo."""
Region = Literal["painted", "classes"]


@dataclass(frozen=True)
class Wish:
    """What is to be changed, and how hard to try; at most one of `mask`, `relabel` and `vector`.

    Attributes:
        mask: the label map of one picture as it should be.
        relabel: (from, to) names or numbers of classes: all of one becomes the other.
        vector: an editing vector, applied so many times and refined for `refine` steps.
        scales: each by itself; None: once.
        steps: of the optimisation of an edit; invert_steps: of an inversion.
        invert_from: where an inversion starts: the encoder's codes, or the mean (which takes some 1,000 steps).
        noise: weight of the regulariser of the layers' noise, which is inverted too; None: it stays the generator's.
        region: where a picture may change: where labels differ (painted), or all of the classes that do (classes).
        widen: the region by so many pixels.
        layers: of the codes, those that an edit may change; None: all.
        paste: the region alone goes back into the photo, by its gradients.
    """

    mask: Path | None = None
    relabel: Sequence[tuple[str, str]] = ()
    vector: Path | None = None
    scales: tuple[float, ...] | None = None
    refine: int = 0
    steps: int = 100
    invert_steps: int = 100
    invert_from: editing.Start = "encoder"
    noise: float | None = None
    region: Region = "painted"
    widen: int = DILATIONS
    layers: tuple[int, ...] | None = None
    paste: bool = False

    def __post_init__(self) -> None:
        given = [bool(self.mask), bool(self.relabel), bool(self.vector)]
        if sum(given) > 1:
            raise UserError("one edit at a time: give --mask, --relabel or --vector, not two of them")
        if not self.vector and (self.refine or self.scales is not None):
            raise UserError("is for --vector", "--refine" if self.refine else "--scale")
        if self.scales is not None and len(set(self.scales)) < len(self.scales):
            raise UserError("holds a scale twice", "--scale")
        if self.widen < 0:
            raise UserError(f"must not be negative, not {self.widen}", "--widen")
        if self.invert_from not in ("encoder", "mean"):
            raise UserError(f"expected encoder or mean, not {self.invert_from!r}", "--invert-from")
        if self.noise is not None and self.noise < 0:
            raise UserError(f"must not be negative, not {self.noise:g}", "--invert-noise")
        if self.region not in ("painted", "classes"):
            raise UserError(f"expected painted or classes, not {self.region!r}", "--region")

    @property
    def optimises(self) -> bool:
        """Whether codes are led anywhere: a bare vector is only added."""
        return bool(self.mask or self.relabel or self.refine)


@dataclass(frozen=True)
class Inverted:
    """Codes (B, styles, width) of pictures, what renders them, and (B,) the PSNR in dB; infinite for samples."""

    ws: Tensor
    view: View
    psnr: Tensor


def inverted(
    module: EditganModule, x: Tensor, maps: Maps | None, wish: Wish, report: editing.Report
) -> tuple[Inverted, Tensor]:
    """Of photos x (B, C, H, W), and (B,) bool which of them are rendered badly."""
    view = module.view
    found = editing.invert(
        view,
        x,
        maps,
        start=wish.invert_from,
        noise=wish.noise,
        steps=wish.invert_steps,
        report=report,
    )
    if wish.noise is not None:
        view = view.with_planes(found.values[1:])
    with torch.no_grad():
        error = squared(view.render(found.ws), x)
    ratio = -10 * error.log10()
    poor = (ratio < FAITHFUL) | (error > 3 * module.model.usual.clamp(min=1e-12))
    return Inverted(found.ws, view, ratio.cpu()), poor


class Progress:
    """Steps of inversion and edit, as pictures done."""

    def __init__(self, report: Report, first: int, rows: int, total: int):
        self.report, self.first, self.rows, self.total = report, first, rows, total

    def part(self, index: int, of: int) -> editing.Report:
        def told(done: int, total: int) -> None:
            share = (index + done / total) / of
            self.report(self.first + int(self.rows * share), self.total, {})

        return told


class Changes:
    """The wish, understood: from codes to changed codes.

    Raises:
        UserError: a mask for several pictures, of another shape or with unknown classes, or a vector of another run.
    """

    def __init__(self, module: EditganModule, wish: Wish, count: int) -> None:
        self.module, self.wish = module, wish
        names, size = module.class_names, module.spec.shape[1:]
        self.vector: Vector | None = None
        self.mask: Tensor | None = None
        self.pairs = [(self._class(a), self._class(b)) for a, b in wish.relabel]
        if wish.layers is not None and max(wish.layers) >= module.styles:
            raise UserError(
                f"the codes have layers 0 to {module.styles - 1}, not {max(wish.layers)}", "--layers"
            )
        for _, b in self.pairs:
            self._seen([b], "--relabel")
        if wish.mask is not None:
            if count != 1:
                raise UserError(f"is the label map of one picture, and there are {count}", str(wish.mask))
            labels = fit_map(
                read_label_map(wish.mask, len(names)), cast("tuple[int, int]", size), str(wish.mask)
            )
            self._seen(labels.unique().tolist(), str(wish.mask))
            self.mask = labels[None]
        if wish.vector is not None:
            shape = (module.styles, module.width)
            self.vector = load_vector(wish.vector, module.digest(), shape, names)

    def _class(self, name: str) -> int:
        names = self.module.class_names
        if name in names:
            return names.index(name)
        if name.isdecimal() and int(name) < len(names):
            return int(name)
        raise UserError(f"{name!r} is no class (there are: {', '.join(names)})", "--relabel")

    def _seen(self, classes: Sequence[int], where: str) -> None:
        for k in classes:
            if not self.module.model.heads.seen[k]:
                raise UserError(
                    f"{self.module.class_names[k]} was in no labelled picture: the heads do not know it",
                    where,
                )

    def __call__(self, x: Tensor, seen: Inverted, maps: Maps | None, progress: Progress) -> list[Figures]:
        """What became of photos x (B, C, H, W): of a vector at each of its scales, else one of them."""
        with torch.no_grad():
            before, logits = seen.view.render_labelled(seen.ws)
        labels = logits.argmax(1)
        if self.vector is None:
            parts = [self._painted(seen, labels, maps, progress.part(1, 2))]
        else:
            scales = self.wish.scales or (1.0,)
            parts = [
                self._along(seen, self.vector, scale, maps, progress.part(1 + i, 1 + len(scales)))
                for i, scale in enumerate(scales)
            ]
        progress.part(1, 2)(1, 1)
        return [self._figures(x, seen, before, labels, *part) for part in parts]

    def _along(
        self, seen: Inverted, vector: Vector, scale: float, maps: Maps | None, report: editing.Report
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Codes, label maps as they ought to be, and regions."""
        known = [name in vector.classes for name in self.module.class_names]
        classes = torch.tensor(known, device=seen.ws.device) if self.wish.region == "classes" else None
        return editing.apply_vector(
            seen.view,
            seen.ws,
            vector.delta.to(seen.ws),
            scale,
            classes,
            maps,
            refine=self.wish.refine,
            widened=self.wish.widen,
            layers=self.wish.layers,
            report=report,
        )

    def _painted(
        self, seen: Inverted, labels: Tensor, maps: Maps | None, report: editing.Report
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `_along`, of the mask, of relabelled classes, or of no edit at all."""
        wish, ws = self.wish, seen.ws
        wanted = labels.clone() if self.mask is None else self.mask.to(labels)
        for a, b in self.pairs:
            wanted[labels == a] = b
        classes = edited_classes(labels, wanted, len(self.module.class_names))
        region = region_of(labels, wanted, classes if wish.region == "classes" else None, wish.widen)
        rows = (wanted != labels).flatten(1).any(1)
        if not bool(rows.any()):
            return ws, wanted, region
        found = editing.edit(
            seen.view.rows(rows),
            ws[rows],
            wanted[rows],
            region[rows],
            maps,
            steps=wish.steps,
            layers=wish.layers,
            report=report,
        )
        now = ws.clone()
        now[rows] = found.ws
        return now, wanted, region

    def _figures(
        self,
        x: Tensor,
        seen: Inverted,
        before: Tensor,
        labels: Tensor,
        ws: Tensor,
        wanted: Tensor,
        region: Tensor,
    ) -> Figures:
        with torch.no_grad():
            after, logits = seen.view.render_labelled(ws)
        blended = [poisson_blend(*row) for row in zip(x, after, region)] if self.wish.paste else []
        return Figures(
            before=before.cpu(),
            after=after.cpu(),
            pasted=(torch.stack(blended) if blended else after).cpu(),
            labels=labels.cpu(),
            wanted=wanted.cpu(),
            said=logits.argmax(1).cpu(),
            region=region.cpu(),
            codes=seen.ws.cpu(),
            delta=(ws - seen.ws).cpu(),
            psnr=seen.psnr,
            cross_entropy=region_cross_entropy(logits.movedim(1, -1)[region], wanted, region).cpu(),
        )
