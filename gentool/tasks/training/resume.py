"""Which run a `gentool train` goes on with, and whether it may."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gentool import families
from gentool.errors import UserError
from gentool.recipes.resolve import Resolved, resolve
from gentool.runs import checkpoints
from gentool.runs.folder import RunFolder
from gentool.tasks.model.load import stored_recipe

FREE = (
    "trainer",
    "sample",
    "evaluate",
    "description",
    "data.workers",
    "data.root",
    "privacy.engine",
    "privacy.memory_gib",
    "privacy.physical_batch",
)
"""What may change between two lives of a run without changing what it learns; see `BOUND` for the exceptions."""

BOUND = ("trainer.accumulate", "trainer.clip_norm", "trainer.precision")
"""Parts of `trainer` that decide the weights."""


class Stage(NamedTuple):
    """How far a run has come: `step` of `steps` are behind it."""

    run: Path
    step: int
    steps: int


def stage(
    source: str, overrides: Sequence[str], *, run_dir: Path | None, resume: str | None, allow_change: bool
) -> Stage | None:
    """The run that training would go on with, or start in `run_dir`; None where it would make a folder of its own.

    Raises:
        UserError: training would be refused: no such run, a run that exists already, another recipe.
    """
    resolved = resolve(source, overrides, families.recipe_schema)
    run = find_run(resolved, run_dir=run_dir, resume=resume)
    if run is None:
        return None
    check_same_run(run, resolved, starting=resume is None, allow_change=allow_change)
    state, _ = checkpoints.newest(run.checkpoints)
    return Stage(run.path, 0 if state is None else int(state["step"]), resolved.recipe.trainer.max_steps)


def find_run(resolved: Resolved, *, run_dir: Path | None, resume: str | None) -> RunFolder | None:
    """The run to go on with, or None for a new one.

    Raises:
        UserError: the run that was named does not exist.
    """
    if resume is None:
        return None if run_dir is None else RunFolder(run_dir)
    if resume != "auto":
        return RunFolder.open(resume)
    if run_dir is not None:
        return RunFolder(run_dir)
    runs = sorted(p.parent for p in (Path("runs") / resolved.name).glob("*/recipe.yaml"))
    same = [p for p in runs if not differences(stored_recipe(RunFolder(p)), resolved)]
    return RunFolder(same[-1]) if same else None


def check_same_run(run: RunFolder, resolved: Resolved, *, starting: bool, allow_change: bool) -> None:
    """A folder that holds a run is gone on with only on request, and only by the recipe that made it.

    Raises:
        UserError: what is in the way, with the differing keys.
    """
    if not run.recipe.is_file() or not (run.weights.is_file() or checkpoints.complete(run.checkpoints)):
        return  # a start that failed before its first checkpoint learned nothing that could be lost
    if starting:
        raise UserError("the folder already holds a run; add --resume auto to go on with it", str(run.path))
    changed = differences(stored_recipe(run), resolved)
    if changed and not allow_change:
        lines = "".join(f"\n  {key}: {old!r} -> {new!r}" for key, old, new in changed)
        raise UserError(
            f"the recipe differs from the one this run was started with:{lines}\n"
            "go on with the old values, start a new run, or add --allow-change",
            str(run.path),
        )


def differences(old: Resolved, new: Resolved) -> list[tuple[str, Any, Any]]:
    """(key, old, new) for each value that decides what is learned."""
    before, after = dict(_leaves(old.recipe.model_dump())), dict(_leaves(new.recipe.model_dump()))
    keys = [k for k in {**before, **after} if before.get(k) != after.get(k) and not _free(k)]
    return [(k, before.get(k), after.get(k)) for k in keys]


def _free(key: str) -> bool:
    def within(prefixes: tuple[str, ...]) -> bool:
        return any(key == p or key.startswith(p + ".") for p in prefixes)

    # More steps change the learning-rate schedule's end, and that is what asking for more steps means.
    return within(FREE) and not within(BOUND)


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree
