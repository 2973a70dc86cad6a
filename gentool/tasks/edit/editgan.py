"""gentool edit --method editgan: pictures changed by repainting their label map, or by an editing vector."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gentool.errors import UserError
from gentool.families.editgan.labels import write_label_map
from gentool.families.editgan.losses import Maps, edited_classes
from gentool.families.editgan.module import EditganModule
from gentool.families.editgan.vector import Vector, load_codes, save_codes
from gentool.runs.atomic import atomic_write, check_apart, check_writable
from gentool.tasks.edit.editgan_changes import Changes, Inverted, Progress, Wish, inverted
from gentool.tasks.edit.editgan_report import Edited, Figures
from gentool.tasks.model.load import best_device, load_run, origin, trained_model
from gentool.tasks.pictures.read import Pictures, Split, fit_shape, read_pictures
from gentool.tasks.pictures.write import beside, check_places, pixels, write_file, write_panel
from gentool.training.watching import Report, Say, unreported, unsaid

LARGE = 0.8
"""Share of a picture above which a region leaves too little to hold it by."""


def edit(
    path: Path | str,
    source: str | None,
    wish: Wish,
    *,
    save_vector: Path | None = None,
    save_codes: Path | None = None,
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
        source: pictures, or the codes of one (.safetensors, of `save_codes`); None: samples of the generator, whose
            codes are known.
        save_vector: where the mean change of the codes goes.
        save_codes: the folder where each picture's codes go, as they were before the edit, and its label map.
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
    codes = known_codes(module, source, count, seed)
    if codes is not None:
        with torch.no_grad():
            photos = torch.cat([module.view.render(part) for part in codes.split(256)]).cpu()
        name = f"samples of seed {seed}" if source is None else source
        found = Pictures(photos, None, (), name, single=source is not None)
    else:
        assert source is not None
        found = read_pictures(source, known=resolved.recipe.data, split=split, count=count, say=say)
        photos = fit_shape(found.x, module.spec.shape, source, resize=resize, repeat_channels=repeat_channels)
    stem = "samples" if source is None else Path(source).stem
    out = out or run.samples / f"edited-{stem}-editgan.h5"
    scales = wish.scales or ((1.0,) if wish.vector else ())
    places = [out]
    if len(scales) > 1 and found.single and out.suffix.lower() == ".png":
        places = [beside(out, f"scale{scale:g}") for scale in scales]
    read = (wish.mask, wish.vector)
    for place in (*places, out):
        check_places(place, source, single=found.single, also=read, pictures_beside=("panel", "labels"))
    changes = Changes(module, wish, len(photos))
    if save_vector is not None:
        if not (wish.mask or wish.relabel):
            raise UserError("needs an edit to learn from: --mask or --relabel", "--save-vector")
        check_writable(save_vector.absolute().parent)
        check_apart(save_vector, source, *read)
    kept = [] if save_codes is None else codes_files(save_codes, stem, len(photos), single=found.single)
    compares = codes is None or wish.optimises
    if classifier is not None and not compares:
        raise UserError("nothing is inverted or led here, and no pictures are compared", "--classifier")
    maps = compared_by(module, classifier) if compares else None
    if maps is None and compares:
        say("pictures are compared by pixels alone: --classifier names a run whose features compare them")
    done: list[list[Figures]] = []
    for first in range(0, len(photos), batch_size):
        x = photos[first : first + batch_size].to(device)
        progress = Progress(report, first, len(x), len(photos))
        if codes is not None:
            exact = torch.full((len(x),), torch.inf)
            seen = Inverted(codes[first : first + batch_size], module.view, exact)
        else:
            seen, poor = inverted(module, x, maps, wish, progress.part(0, 2))
            for i in poor.nonzero().flatten().tolist():
                say(poorly(first + i, float(seen.psnr[i]), wish))
        done.append(changes(x, seen, maps, progress))
    figures = [Figures.joined(parts) for parts in zip(*done)]
    say_what_is_left(figures, wish, say)
    if save_vector is not None:
        _save(figures[0], changes, module, save_vector, found.name, say)
    for place, ws, labels in zip(kept, figures[0].codes, figures[0].labels):
        keep_codes(place, ws, labels, module, found.name)
    how = {
        "method": "editgan",
        "mask": None if wish.mask is None else str(wish.mask),
        "relabel": [list(pair) for pair in wish.relabel],
        "vector": None if wish.vector is None else str(wish.vector),
        "scale": scales[0] if len(scales) == 1 else list(scales) or 1.0,
        "steps": wish.refine if wish.vector else wish.steps,
        "invert_from": wish.invert_from,
        "invert_steps": wish.invert_steps,
        "invert_noise": wish.noise,
        "layers": None if wish.layers is None else list(wish.layers),
        "perceptual": classifier or resolved.recipe.model.perceptual,
    }
    provenance = {**origin(run, resolved), "input": found.name, "edit": how}
    panel = write_edits(places, out, found, photos, figures, scales, provenance, module, paste=wish.paste)
    label_map = None
    if len(photos) == 1:
        label_map = beside(out, "labels")
        with atomic_write(label_map) as scratch:
            write_label_map(scratch, figures[0].labels[0], len(module.class_names))
    return Edited(
        places,
        panel,
        label_map,
        save_vector,
        save_codes,
        how,
        scales,
        figures,
        time.perf_counter() - started,
    )


def compared_by(module: EditganModule, classifier: str | None) -> Maps | None:
    """What compares pictures: this run's features, or those of the one that the recipe names.

    Raises:
        UserError: it cannot, or it is gone: an export has no copy of it.
    """
    if classifier is not None:
        return module.maps(trained_model(classifier))
    try:
        return module.maps()
    except UserError as error:
        raise UserError(f"{error.message}; --classifier names another", error.where) from None


def known_codes(module: EditganModule, source: str | None, count: int | None, seed: int) -> Tensor | None:
    """(N, styles, width) where nothing is to be inverted: of samples, or those of a file; None for photos."""
    if source is None:
        with torch.no_grad():
            return module.codes(range(count or 16), seed)
    if Path(source).suffix.lower() != ".safetensors":
        return None
    shape = (module.styles, module.width)
    return load_codes(Path(source), module.digest(), shape).to(module.device)[None]


def codes_files(folder: Path, stem: str, count: int, *, single: bool) -> list[Path]:
    """Where each picture's codes go; its label map has the same name.

    Raises:
        UserError: one is there already: a label map that has been repainted is not to be lost.
    """
    check_writable(folder)
    found = [
        folder / (f"{stem}.safetensors" if single else f"{stem}-{i:05d}.safetensors") for i in range(count)
    ]
    for place in found:
        for each in (place, place.with_suffix(".png")):
            if each.exists():
                raise UserError(
                    "is there already, and may have been repainted: name another folder", str(each)
                )
    return found


def keep_codes(place: Path, ws: Tensor, labels: Tensor, module: EditganModule, source: str) -> None:
    """Codes (styles, width), and the label map (H, W) beside them."""
    save_codes(place, ws, module.digest(), source)
    with atomic_write(place.with_suffix(".png")) as scratch:
        write_label_map(scratch, labels, len(module.class_names))


def write_edits(
    places: Sequence[Path],
    out: Path,
    found: Pictures,
    photos: Tensor,
    figures: Sequence[Figures],
    scales: Sequence[float],
    provenance: dict[str, Any],
    module: EditganModule,
    *,
    paste: bool,
) -> Path:
    """A file for each scale, or one for all, those of the first scale first; and the panel, named as of `out`."""
    results = [f.pasted if paste else f.after for f in figures]
    if len(places) == len(figures):
        for place, x in zip(places, results):
            write_file(place, found, x, provenance)
    else:
        labels = None if found.labels is None else np.tile(found.labels, len(figures))
        write_file(out, replace(found, labels=labels, single=False), torch.cat(results), provenance)
    shades = figures[-1].painted(module.spec.shape[0], len(module.class_names))
    between = {"inverted": pixels(figures[-1].before)}
    if len(figures) == 1:
        between["labels"] = shades
    between |= {f"scale {scale:g}": pixels(x) for scale, x in zip(scales[:-1], results)}
    last = f"scale {scales[-1]:g}" if len(figures) > 1 else "after"
    return write_panel(out, pixels(photos), pixels(results[-1]), difference=True, between=between, last=last)


def poorly(index: int, psnr: float, wish: Wish) -> str:
    """What the user ought to know of a photo that the generator cannot render."""
    back = "" if wish.paste else "; --paste brings the region alone back"
    return (
        f"warning: picture {index} is not rendered well ({psnr:.1f} dB): the edit shows what the generator makes of "
        f"it, not the photo{back}"
    )


def say_what_is_left(figures: Sequence[Figures], wish: Wish, say: Say) -> None:
    """What the user ought to know of a wish that was, or could not be, granted."""
    if wish.mask is None and not wish.relabel and wish.vector is None:
        say("no edit asked for: the pictures as the generator renders them, and their labels")
        return
    if not any(bool(each.edited().any()) for each in figures):
        say("nothing to do: the label map is the wanted one already")
    share = max(float(each.region.flatten(1).float().mean(1).max()) for each in figures)
    if share > LARGE:
        say(f"warning: the region covers {share:.0%} of a picture: little is left outside to hold it by")
    for each, scale in zip(figures, wish.scales or (1.0,)):
        if wish.vector is not None:
            say(
                f"scale {scale:g}: cross-entropy in the region {float(each.cross_entropy.mean()):.3g}; a vector that "
                "does not carry over may do so at another --scale, or with --refine 30"
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
