"""gentool export: what of a run may leave the house: weights, recipe, ledger and model card."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gentool import families
from gentool.errors import UserError
from gentool.privacy.account import Account
from gentool.runs.atomic import check_writable, plain_failures, sync, temporary, write_json, write_text
from gentool.runs.folder import RunFolder
from gentool.runs.weights import load_weights
from gentool.tasks.model.base import kept, matched
from gentool.tasks.model.card import account_of_run, model_card
from gentool.tasks.model.load import stored_recipe

PUBLIC = ("gentool", "git", "versions", "python", "recipe", "steps", "data_spec")
"""What an export keeps of the provenance: nothing that is computed from the data, and nobody's paths. The shape
and the classes of the data are needed to sample, and taken as public."""


@dataclass(frozen=True)
class Exported:
    """The folder, the names of its files, and the account of a private run."""

    path: Path
    files: tuple[str, ...]
    account: Account | None


def export(path: Path | str, out: Path) -> Exported:
    """Copies what may be published of the run at `path` into the new folder `out`; whole or absent.

    Of a private run nothing goes along that was computed from its data without being accounted for: no loss
    curve, metrics, samples, evaluation, checkpoint, timing, or fingerprint of the data. The folder is a run for
    `gentool sample` and `gentool privacy-account`; it holds the base of a distilled model as the run does.

    Raises:
        UserError: not a trained run, a private one without its ledger, or `out` is there already.
        CorruptError: the weights, the base or the ledger are damaged.
    """
    run = RunFolder.open(path)
    metadata = load_weights(run.require_weights())[1]  # every byte is checked
    resolved = stored_recipe(run)
    account = account_of_run(run, resolved)
    base = matched(run, metadata) if families.FAMILIES.get(resolved.recipe.family).distils else None
    private = account is not None or (base is not None and base.ledger.is_file())
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("is there already; export to a new folder", str(out))
    check_writable(out.parent)
    scratch = RunFolder(temporary(out))
    with plain_failures(out):
        try:
            provenance = _copy(run, scratch, private)
            if base is not None:
                _copy(base, kept(scratch), private)
            write_text(scratch.card, model_card(resolved, provenance, [], account=account))
            files = sorted(
                str(file.relative_to(scratch.path)) for file in scratch.path.rglob("*") if file.is_file()
            )
            sync(scratch.path)
            os.replace(scratch.path, out)
            sync(out.parent)
        finally:
            shutil.rmtree(scratch.path, ignore_errors=True)
    return Exported(out, tuple(files), account)


def _copy(run: RunFolder, out: RunFolder, private: bool) -> dict[str, Any]:
    """A run's recipe, weights, ledger and what of its provenance is public, which is returned."""
    out.path.mkdir(parents=True)
    write_text(out.recipe, stored_recipe(run).text)
    for file in (run.weights, run.ledger):
        if file.is_file():
            shutil.copyfile(file, out.path / file.name)
            sync(out.path / file.name)
    provenance = public_provenance(run, private)
    write_json(out.provenance, provenance)
    return provenance


def public_provenance(run: RunFolder, private: bool) -> dict[str, Any]:
    """What may be told of where the run came from; the fingerprint too, where the data need no protection."""
    keys = PUBLIC if private else (*PUBLIC, "data_fingerprint")
    return {key: value for key, value in run.read_provenance().items() if key in keys}
