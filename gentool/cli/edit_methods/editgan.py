"""gentool edit --method editgan."""

from __future__ import annotations

from pathlib import Path

from gentool.cli.edit_methods.base import Given, Method, flag, numbers, whole_numbers
from gentool.cli.output import emit, note
from gentool.errors import UserError


def _editgan(given: Given) -> None:
    from gentool.cli.progress import progress
    from gentool.tasks.edit.editgan import Wish, edit

    quiet = given["quiet"]
    names = {"iterations": "steps", "invert_noise": "noise"}
    names |= {key: key for key in ("invert_steps", "invert_from", "refine", "region", "widen")}
    chosen = {word: given[key] for key, word in names.items() if given[key] is not None}
    wish = Wish(
        mask=given["mask"],
        relabel=[_pair(text) for text in given["relabel"] or ()],
        vector=given["vector"],
        scales=None if given["scale"] is None else numbers(given["scale"], "--scale"),
        layers=whole_numbers(",".join(given["layers"]), "--layers") if given["layers"] else None,
        paste=bool(given["paste"]),
        **chosen,
    )
    _refuse_idle(given)
    with progress("editing", "picture", quiet) as report:
        done = edit(
            given["run"],
            given["source"],
            wish,
            save_vector=given["save_vector"],
            save_codes=given["save_codes"],
            count=given["count"],
            seed=given["seed"] or 0,
            split="train" if given["train"] else "test",
            classifier=given["classifier"],
            out=given["out"],
            resize=bool(given["resize"]),
            repeat_channels=bool(given["repeat_channels"]),
            batch_size=given["batch_size"],
            report=report,
            say=lambda line: note(line, quiet),
        )
    document = done.document()
    note(f"panel: {done.panel}", quiet)
    if done.labels is not None:
        note(f"labels: {done.labels}", quiet)
    for each in document.get("scales", [document]):
        if each["edited"]:
            at = f"at scale {each['scale']:g} " if "scales" in document else ""
            note(
                f"{at}{each['edited']} of {document['count']} edited: changed by {each['changed_inside']:.3g} inside "
                f"the region, {each['changed_outside']:.3g} outside",
                quiet,
            )
    emit(document, "\n".join(map(str, done.paths)), given["json"])


OF_PHOTOS = ("invert_steps", "invert_from", "invert_noise", "train", "resize", "repeat_channels")
"""What is read where pictures are inverted alone."""


def _refuse_idle(given: Given) -> None:
    """Raises a `UserError` for what this edit would ignore."""
    source, painted = given["source"], given["mask"] is not None or bool(given["relabel"])
    said = {key for key, value in given.items() if value is not False and value not in (None, [], ())}
    if source is None or Path(source).suffix.lower() == ".safetensors":
        told = "samples are edited" if source is None else f"{source} holds latents"
        for key in OF_PHOTOS:
            if key in said:
                raise UserError(f"{told}, and nothing is inverted: it is for pictures as INPUT", flag(key))
    if "iterations" in said and not painted:
        other = "; a vector's steps are --refine" if "vector" in said else ""
        raise UserError(f"is for --mask and --relabel{other}", flag("iterations"))
    if not painted and "vector" not in said:
        for key in ("region", "widen", "paste", "layers"):
            if key in said:
                raise UserError("no edit is asked for: it is for --mask, --relabel and --vector", flag(key))


def _pair(text: str) -> tuple[str, str]:
    before, equals, after = text.partition("=")
    if not equals or not before.strip() or not after.strip():
        raise UserError(f"expected two classes (hole=stroke), not {text!r}", "--relabel")
    return before.strip(), after.strip()


EDITGAN = Method(
    "pictures by repainting their label map, or by an editing vector",
    _editgan,
    frozenset(
        {
            "mask",
            "relabel",
            "vector",
            "save_vector",
            "save_codes",
            "scale",
            "refine",
            "iterations",
            "invert_steps",
            "invert_from",
            "invert_noise",
            "region",
            "widen",
            "layers",
            "paste",
            "train",
            "resize",
            "repeat_channels",
        }
    ),
    source=None,
)
