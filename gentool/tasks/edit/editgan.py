"""gentool edit --method editgan: pictures changed by repainting their label map, or by an editing vector."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from gentool.data import to_uint8
from gentool.errors import UserError
from gentool.families.editgan.labels import write_label_map
from gentool.families.editgan.losses import edited_classes
from gentool.families.editgan.module import EditganModule
from gentool.families.editgan.vector import Vector
from gentool.runs.atomic import atomic_write, check_apart, check_writable
from gentool.tasks.edit.editgan_changes import Changes, Inverted, Progress, Wish, inverted
from gentool.tasks.edit.editgan_report import Edited, Figures
from gentool.tasks.model.load import best_device, load_run, origin
from gentool.tasks.pictures.read import Pictures, Split, fit_shape, read_pictures
from gentool.tasks.pictures.write import beside, check_places, write_pictures
from gentool.training.watching import Report, Say, unreported, unsaid

LARGE = 0.8
"""Share of a picture above which a region leaves too little to hold it by."""


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
    report: Report = unreported,
    say: Say = unsaid,
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
    device = best_device()
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
            photos = torch.cat([module.view.render(part) for part in codes.split(256)]).cpu()
        found = Pictures(photos, None, (), f"samples of seed {seed}")
    else:
        found = read_pictures(source, known=resolved.recipe.data, split=split, count=count, say=say)
        photos = fit_shape(found.x, module.spec.shape, source, resize=resize, repeat_channels=repeat_channels)
    name = "samples" if source is None else Path(source).stem
    out = out or run.samples / f"edited-{name}-editgan.h5"
    read = (wish.mask, wish.vector)
    check_places(out, source, single=found.single, also=read, pictures_beside=("panel", "labels"))
    changes = Changes(module, wish, len(photos))
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
        progress = Progress(report, first, len(x), len(photos))
        if source is None:
            exact = torch.full((len(x),), torch.inf)
            seen = Inverted(codes[first : first + batch_size], module.view, exact)
        else:
            seen, poor = inverted(module, x, maps, wish, progress.part(0))
            for i in poor.nonzero().flatten().tolist():
                say(poorly(first + i, float(seen.psnr[i]), wish))
        done.append(changes(x, seen, maps, progress))
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
        "invert_from": wish.invert_from,
        "invert_steps": wish.invert_steps,
        "invert_noise": wish.noise,
        "perceptual": classifier or resolved.recipe.model.perceptual,
    }
    provenance = {
        **origin(run, resolved),
        "input": found.name,
        "edit": how,
    }
    between = {
        "inverted": to_uint8(figures.before).permute(0, 2, 3, 1).numpy(),
        "labels": figures.painted(module.spec.shape[0], len(module.class_names)),
    }
    panel = write_pictures(out, found, photos, after, provenance, difference=True, between=between)
    labels = None
    if len(photos) == 1:
        labels = beside(out, "labels")
        with atomic_write(labels) as scratch:
            write_label_map(scratch, figures.labels[0], len(module.class_names))
    return Edited(out, panel, labels, save_vector, how, figures, time.perf_counter() - started)


def poorly(index: int, psnr: float, wish: Wish) -> str:
    """What the user ought to know of a photo that the generator cannot render."""
    back = "" if wish.paste else "; --paste brings the region alone back"
    return (
        f"warning: picture {index} is not rendered well ({psnr:.1f} dB): the edit shows what the generator makes of "
        f"it, not the photo{back}"
    )


def say_what_is_left(figures: Figures, wish: Wish, say: Say) -> None:
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
    changes: Changes,
    module: EditganModule,
    path: Path,
    source: str,
    say: Say,
) -> None:
    edited = figures.edited()
    if not bool(edited.any()):
        raise UserError("nothing was edited: there is no vector to save", str(path))
    classes = edited_classes(figures.labels, figures.wanted, len(module.class_names)).any(0)
    names = tuple(name for name, there in zip(module.class_names, classes.tolist()) if there)
    Vector(figures.delta[edited].mean(0), names, module.digest(), source).save(path)
    say(f"vector: {path}, the mean of {int(edited.sum())} edits, classes {', '.join(names)}")
