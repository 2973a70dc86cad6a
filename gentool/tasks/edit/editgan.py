"""gentool edit --method editgan: pictures changed by repainting their label map, or by an editing vector."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from gentool.data import to_uint8
from gentool.errors import UserError
from gentool.families.editgan import editing
from gentool.families.editgan.blend import poisson_blend
from gentool.families.editgan.labels import fit_map, read_label_map, write_label_map
from gentool.families.editgan.losses import (
    Maps,
    edited_classes,
    region_cross_entropy,
    region_of,
    squared,
)
from gentool.families.editgan.module import EditganModule
from gentool.families.editgan.vector import Vector, load_vector
from gentool.runs.atomic import atomic_write, check_apart, check_writable
from gentool.runs.provenance import describe_machine
from gentool.runs.weights import fingerprint
from gentool.tasks.edit.editgan_report import Edited, Figures
from gentool.tasks.model.load import load_run
from gentool.tasks.pictures.read import Pictures, Split, fit_shape, read_pictures
from gentool.tasks.pictures.write import beside, check_places, write_panel, write_pictures

LARGE = 0.8
"""Share of a picture above which a region leaves too little to hold it by."""
Region = Literal["painted", "classes"]


@dataclass(frozen=True)
class Wish:
    """What is to be changed, and how hard to try; at most one of `mask`, `relabel` and `vector`.

    Attributes:
        mask: the label map of one picture as it should be.
        relabel: (from, to) names or numbers of classes: all of one becomes the other.
        vector: an editing vector, applied `scale` times and refined for `refine` steps.
        steps: of the optimisation of an edit; invert_steps: of an inversion.
        region: where a picture may change: where labels differ (painted), or all of the classes that do (classes).
        paste: the region alone goes back into the photo, by its gradients.
    """

    mask: Path | None = None
    relabel: Sequence[tuple[str, str]] = ()
    vector: Path | None = None
    scale: float = 1.0
    refine: int = 0
    steps: int = 60
    invert_steps: int = 100
    region: Region = "painted"
    paste: bool = False

    def __post_init__(self) -> None:
        given = [bool(self.mask), bool(self.relabel), bool(self.vector)]
        if sum(given) > 1:
            raise UserError("one edit at a time: give --mask, --relabel or --vector, not two of them")
        if not self.vector and (self.refine or self.scale != 1):
            raise UserError("is for --vector", "--refine" if self.refine else "--scale")
        if self.region not in ("painted", "classes"):
            raise UserError(f"expected painted or classes, not {self.region!r}", "--region")


def edit(
    path: Path | str,
    source: str | None,
    wish: Wish,
    *,
    save_vector: Path | None = None,
    count: int | None = None,
    seed: int = 0,
    split: Split = "test",
    classifier: str | None = None,
    out: Path | None = None,
    resize: bool = False,
    repeat_channels: bool = False,
    batch_size: int = 64,
    report: Callable[[int, int, dict[str, float]], None] = lambda done, total, figures: None,
    say: Callable[[str], None] = lambda line: None,
) -> Edited:
    """Inverts the pictures, changes their codes, writes them, a panel and (of one picture) its label map beside them.

    Args:
        source: pictures; None: samples of the generator, whose codes are known.
        save_vector: where the mean change of the codes goes.
        classifier: a run whose features compare pictures; None: the recipe's.

    Raises:
        UserError: no run of the family editgan, or a wish that cannot be.
    """
    started = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run, resolved, module = load_run(path)
    if not isinstance(module, EditganModule):
        raise UserError(
            f"a run of the family {resolved.recipe.family} has no label heads: train editgan on it (gentool train "
            "editgan/digits8-small base=RUN)"
        )
    module.to(device)
    if source is None:
        with torch.no_grad():
            codes = module.codes(range(count or 16), seed)
            photos = torch.cat([module.render(part) for part in codes.split(256)]).cpu()
        found = Pictures(photos, None, (), f"samples of seed {seed}")
    else:
        found = read_pictures(source, known=resolved.recipe.data, split=split, count=count, say=say)
        photos = fit_shape(found.x, module.spec.shape, source, resize=resize, repeat_channels=repeat_channels)
    name = "samples" if source is None else Path(source).stem
    out = out or run.samples / f"edited-{name}-editgan.h5"
    read = (wish.mask, wish.vector)
    check_places(out, source, single=found.single, also=read, pictures_beside=("panel", "labels"))
    changes = _Changes(module, wish, len(photos), say)
    if save_vector is not None:
        if not (wish.mask or wish.relabel):
            raise UserError("needs an edit to learn from: --mask or --relabel", "--save-vector")
        check_writable(save_vector.absolute().parent)
        check_apart(save_vector, source, *read)
    maps = module.maps(classifier)
    if maps is None:
        say("pictures are compared by pixels alone: --classifier names a run whose features compare them")
    done: list[Figures] = []
    for first in range(0, len(photos), batch_size):
        x = photos[first : first + batch_size].to(device)
        known = None if source is not None else codes[first : first + batch_size]
        progress = _Progress(report, first, len(x), len(photos))
        ws, inverted = _inverted(module, x, known, maps, wish, progress, say, first)
        done.append(changes(x, ws, inverted, maps, progress))
    figures = Figures.joined(done)
    say_what_is_left(figures, wish, say)
    if save_vector is not None:
        _save(figures, changes, module, save_vector, found.name, say)
    after = figures.pasted if wish.paste else figures.after
    how = {
        "method": "editgan",
        "mask": None if wish.mask is None else str(wish.mask),
        "relabel": [list(pair) for pair in wish.relabel],
        "vector": None if wish.vector is None else str(wish.vector),
        "scale": wish.scale,
        "steps": wish.refine if wish.vector else wish.steps,
        "perceptual": classifier or resolved.recipe.model.perceptual,
    }
    provenance = {
        **describe_machine(),
        "run": run.path.name,
        "recipe": resolved.text,
        "model_sha256": fingerprint(run.weights),
        "input": found.name,
        "edit": how,
    }
    write_pictures(out, found, photos, after, provenance)
    rows = [to_uint8(v).permute(0, 2, 3, 1).numpy() for v in (photos, figures.before, after)]
    panel = write_panel(
        out,
        rows[0],
        rows[2],
        difference=True,
        between={
            "inverted": rows[1],
            "labels": figures.painted(module.spec.shape[0], len(module.class_names)),
        },
    )
    labels = None
    if len(photos) == 1:
        labels = beside(out, "labels")
        with atomic_write(labels) as scratch:
            write_label_map(scratch, figures.labels[0], len(module.class_names))
    return Edited(out, panel, labels, save_vector, how, figures, time.perf_counter() - started)


def _inverted(
    module: EditganModule,
    x: Tensor,
    known: Tensor | None,
    maps: Maps | None,
    wish: Wish,
    progress: _Progress,
    say: Callable[[str], None],
    first: int,
) -> tuple[Tensor, Tensor]:
    """Codes, and (B,) the PSNR of their pictures in dB; a poor one is told."""
    if known is not None:
        return known, torch.full((len(x),), torch.inf)
    found = editing.invert(module, x, maps, steps=wish.invert_steps, report=progress.part(0))
    with torch.no_grad():
        error = squared(module.render(found.ws), x)
    ratio = -10 * error.log10()
    poor = (ratio < 18) | (error > 3 * module.model.usual.clamp(min=1e-12))
    for i in poor.nonzero().flatten().tolist():
        say(
            f"warning: picture {first + i} is not rendered well ({float(ratio[i]):.1f} dB): the edit shows what the "
            "generator makes of it, not the photo"
            + ("" if wish.paste else "; --paste brings the region alone back")
        )
    return found.ws, ratio.cpu()


class _Progress:
    """Steps of inversion and edit, as pictures done."""

    def __init__(
        self, report: Callable[[int, int, dict[str, float]], None], first: int, rows: int, total: int
    ):
        self.report, self.first, self.rows, self.total = report, first, rows, total

    def part(self, index: int) -> editing.Report:
        def told(done: int, total: int) -> None:
            share = (index + done / total) / 2
            self.report(self.first + int(self.rows * share), self.total, {})

        return told


class _Changes:
    """The wish, understood: from codes to changed codes.

    Raises:
        UserError: a mask for several pictures, of another shape or with unknown classes, or a vector of another run.
    """

    def __init__(self, module: EditganModule, wish: Wish, count: int, say: Callable[[str], None]) -> None:
        self.module, self.wish, self.say = module, wish, say
        names, size = module.class_names, module.spec.shape[1:]
        self.vector: Vector | None = None
        self.mask: Tensor | None = None
        self.pairs = [(self._class(a), self._class(b)) for a, b in wish.relabel]
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
                    f"{self.module.class_names[k]} was in no labelled sample: the heads do not know it", where
                )

    def __call__(
        self, x: Tensor, ws: Tensor, psnr: Tensor, maps: Maps | None, progress: _Progress
    ) -> Figures:
        module, wish = self.module, self.wish
        with torch.no_grad():
            before, logits = module.render_labelled(ws)
        labels = logits.argmax(1)
        wanted, now = labels, ws
        region = torch.zeros_like(labels, dtype=torch.bool)
        if self.vector is not None:
            known = [name in self.vector.classes for name in module.class_names]
            classes = torch.tensor(known, device=ws.device) if wish.region == "classes" else None
            now, wanted, region = editing.apply_vector(
                module,
                ws,
                self.vector.delta.to(ws),
                wish.scale,
                classes,
                maps,
                refine=wish.refine,
                report=progress.part(1),
            )
        elif self.mask is not None or self.pairs:
            wanted = labels.clone() if self.mask is None else self.mask.to(labels)
            for a, b in self.pairs:
                wanted[labels == a] = b
            classes = edited_classes(labels, wanted, len(module.class_names))
            region = region_of(labels, wanted, classes if wish.region == "classes" else None)
            if bool((wanted != labels).any()):
                rows = (wanted != labels).flatten(1).any(1)
                found = editing.edit(
                    module,
                    ws[rows],
                    wanted[rows],
                    region[rows],
                    maps,
                    steps=wish.steps,
                    report=progress.part(1),
                )
                now = ws.clone()
                now[rows] = found.ws
        with torch.no_grad():
            after, logits = module.render_labelled(now)
        pasted = torch.stack([poisson_blend(*row) for row in zip(x, after, region)]) if wish.paste else after
        progress.part(1)(1, 1)
        return Figures(
            before=before.cpu(),
            after=after.cpu(),
            pasted=pasted.cpu(),
            labels=labels.cpu(),
            wanted=wanted.cpu(),
            said=logits.argmax(1).cpu(),
            region=region.cpu(),
            delta=(now - ws).cpu(),
            psnr=psnr,
            cross_entropy=region_cross_entropy(logits, wanted, region).cpu(),
        )


def say_what_is_left(figures: Figures, wish: Wish, say: Callable[[str], None]) -> None:
    """What the user ought to know of a wish that was, or could not be, granted."""
    if wish.mask is None and not wish.relabel and wish.vector is None:
        say("no edit asked for: the pictures as the generator renders them, and their labels")
        return
    edited = figures.edited()
    if not bool(edited.any()):
        say("nothing to do: the label map is the wanted one already")
    shares = figures.region.flatten(1).float().mean(1)
    if bool((shares > LARGE).any()):
        say(
            f"warning: the region covers {float(shares.max()):.0%} of a picture: little is left outside to hold it by"
        )
    if wish.vector is not None:
        say(
            f"cross-entropy in the region: {float(figures.cross_entropy.mean()):.3g}; a vector that does not carry "
            "over may do so at another --scale, or with --refine 30"
        )


def _save(
    figures: Figures,
    changes: _Changes,
    module: EditganModule,
    path: Path,
    source: str,
    say: Callable[[str], None],
) -> None:
    edited = figures.edited()
    if not bool(edited.any()):
        raise UserError("nothing was edited: there is no vector to save", str(path))
    classes = edited_classes(figures.labels, figures.wanted, len(module.class_names)).any(0)
    names = tuple(name for name, there in zip(module.class_names, classes.tolist()) if there)
    Vector(figures.delta[edited].mean(0), names, module.digest(), source).save(path)
    say(f"vector: {path}, the mean of {int(edited.sum())} edits, classes {', '.join(names)}")
