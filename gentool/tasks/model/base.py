"""The frozen runs that a model is distilled from: where they lie, and the copies that the run folder keeps.

A run of a family that distils holds `base/`, a run folder itself (recipe, weights, provenance, ledger): it can be
moved and archived like any other. Its own weights name the copy by its SHA-256, so that neither is used without the
other.
Of the other runs that its recipe names (`Recipe.teachers`) it holds copies likewise, in folders of the family's own
names: training goes on with them, and so does what else asks for them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from gentool.errors import CorruptError, UserError
from gentool.privacy.ledger import Ledger
from gentool.recipes.schema import Privacy
from gentool.runs.atomic import atomic_write, make_folder
from gentool.runs.folder import RunFolder
from gentool.runs.weights import fingerprint

FOLDER = "base"
DIGEST = "base_sha256"
"""The key of the copy's fingerprint in the metadata of the run's own weights."""


def kept(run: RunFolder, folder: str = FOLDER) -> RunFolder:
    """The copy that a run keeps of its base, or in another folder of another run; nothing may lie there yet."""
    return RunFolder(run.path / folder)


def named(source: str) -> RunFolder | None:
    """The trained run that a recipe's `base:` names; None when it names a recipe.

    Raises:
        UserError: a folder that is no run, or one without weights.
    """
    if not Path(source).is_dir():
        return None
    run = RunFolder.open(source)
    run.require_weights()
    return run


def keep(source: str, run: RunFolder, *, started: bool, folder: str = FOLDER, key: str = "base") -> None:
    """Copies the base into the run folder, where it is not yet.

    Args:
        folder, key: of the copy, and where the recipe names its source: of another run instead of the base.
        started: the run has a checkpoint, which belongs to the copy that is there.

    Raises:
        UserError: there is no trained run to copy, or the run began with another.
    """
    copy, base = kept(run, folder), named(source)
    if started and copy.weights.is_file():
        digest = fingerprint(copy.weights)
        if base is not None and fingerprint(base.weights) != digest:
            raise UserError(
                f"the weights in {source} are not those this run began with (SHA-256 "
                f"{fingerprint(base.weights)[:12]}, was {digest[:12]}): start a new run",
                key,
            )
        return
    if base is None:
        raise UserError(
            f"{source!r} is no run folder: train that model first "
            f"(RUN=$(gentool train {source})), and add {key}=$RUN",
            key,
        )
    make_folder(copy.path)
    if not base.ledger.is_file():
        copy.ledger.unlink(missing_ok=True)  # of another base, which a start that failed had copied
    for old, new in (
        (base.recipe, copy.recipe),
        (base.provenance, copy.provenance),
        *([(base.ledger, copy.ledger)] if base.ledger.is_file() else []),
        (base.weights, copy.weights),  # last: what shows a further process that the copy is whole
    ):
        with atomic_write(new) as scratch:
            shutil.copyfile(old, scratch)


def ledger_to_inherit(base: RunFolder, privacy: Privacy) -> Ledger | None:
    """The ledger of a base that learned from the records which `privacy` protects; None where it need not count.

    Raises:
        UserError: the base protects nobody, so nothing that is built on it can. CorruptError: its ledger is damaged.
    """
    if privacy.pretrained is not None or not privacy.enabled:
        return None
    ledger = Ledger.open(base.ledger) if base.ledger.is_file() else None
    reason = "it was trained without a privacy: block" if ledger is None else ledger.not_private()
    if reason is not None:
        raise UserError(
            f"the run to start from protects nobody ({reason}), and what it learned of the records goes along with "
            "what is built on it: train it privately, or, if it learned from other, public data, say "
            "privacy.pretrained: public",
            "base",
        )
    return ledger


def describe(base: RunFolder) -> dict[str, str]:
    """What a run's provenance says of its base."""
    return {
        "recipe": str(base.read_provenance().get("recipe", "")),
        "sha256": fingerprint(base.weights),
    }


def matched(run: RunFolder, metadata: Mapping[str, str]) -> RunFolder:
    """The kept base of a trained run.

    Raises:
        CorruptError: it is missing, or not the one that the weights were distilled from.
    """
    copy = kept(run)
    if not copy.weights.is_file():
        raise CorruptError("the base that the head was distilled from is missing", str(copy.path))
    found, known = fingerprint(copy.weights), metadata.get(DIGEST, "")
    if found != known:
        raise CorruptError(
            f"not the base that the head was distilled from (SHA-256 {found[:12]}, was {known[:12]}): a head fits its "
            "own base alone; bring that back, or distil again",
            str(copy.weights),
        )
    return copy
