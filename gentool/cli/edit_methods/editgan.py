"""gentool edit --method editgan."""

from __future__ import annotations

from gentool.cli.edit_methods.base import Given, Method, numbers
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
        paste=bool(given["paste"]),
        **chosen,
    )
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
            "paste",
            "train",
            "resize",
            "repeat_channels",
        }
    ),
    source=None,
)
