"""A recipe's module with fresh weights, on its base where the family distils from one."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch

from gentool import families
from gentool.data import DataSpec
from gentool.noise import mix
from gentool.recipes.resolve import resolve
from gentool.recipes.schema import Recipe
from gentool.runs import checkpoints
from gentool.runs.folder import RunFolder
from gentool.tasks.model.base import keep, kept, named
from gentool.tasks.model.load import load_run, opens, trained_model
from gentool.training.module import GenModule


def build_module(recipe: Recipe, spec: DataSpec, base: GenModule | None = None) -> GenModule:
    """The family's module with freshly initialised weights; the same for the same seed.

    Args:
        base: what a family that distils starts from; None takes what the recipe names: a run, or for a dry run the
            untrained model of a recipe.
    """
    started = []
    if families.FAMILIES.get(recipe.family).distils:
        source = cast(Any, recipe).base
        started = [base or named_model(source, spec)]
    torch.manual_seed(mix(recipe.seed, "weights"))
    module = families.module_class(recipe.family)(recipe, spec, *started)
    module.open_run = trained_model if base is not None else partial(named_model, spec=spec)
    return module


def named_model(source: str, spec: DataSpec) -> GenModule:
    """The model of the run that a recipe names (its `base:`), or the untrained one of the recipe that it names."""
    run = named(source)
    if run is not None:
        return load_run(run.path)[2]
    return build_module(resolve(source, (), families.recipe_schema).recipe, spec).eval()


def start_from_base(run: RunFolder, recipe: Any, rank_zero: bool) -> RunFolder:
    """Sees to it that the run folder holds its base, and returns that copy."""
    if rank_zero:
        keep(recipe.base, run, started=_started(run))
    return _copy_or_source(kept(run), recipe.base)


def learn_from_teachers(module: GenModule, run: RunFolder, rank_zero: bool) -> dict[str, RunFolder]:
    """Sees to it that the run folder holds the runs that the recipe names beside its base, and that the module opens
    those copies; returns them by their folders."""
    teachers, started = module.recipe.teachers, _started(run)
    if rank_zero:
        for each in teachers:
            keep(each.source, run, started=started, folder=each.folder, key=each.key)
    module.open_run = opens(run, teachers)
    return {each.folder: _copy_or_source(kept(run, each.folder), each.source) for each in teachers}


def _started(run: RunFolder) -> bool:
    return bool(checkpoints.complete(run.checkpoints))


def _copy_or_source(copy: RunFolder, source: str) -> RunFolder:
    # another rank may come here before the copy is whole; what is copied serves it as well
    return copy if copy.weights.is_file() else named(source) or copy
