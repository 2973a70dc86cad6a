"""A trained run, opened: its recipe, what it was trained on, and its model ready to draw."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gentool import families
from gentool.data import DataSpec
from gentool.errors import CorruptError
from gentool.recipes.resolve import Resolved, leaves, resolve
from gentool.recipes.schema import NamedRun
from gentool.runs.folder import RunFolder
from gentool.runs.provenance import describe_machine
from gentool.runs.weights import fingerprint, load_weights
from gentool.tasks.model.base import kept, matched
from gentool.training.module import GenModule

TRAINED_AS = "trained_as"
"""The key of the weights' metadata under which that stands which `MEANING` names."""
MEANING = ("model.process", "model.precond")
"""Parts of a recipe by which the numbers of a network are read; another would go unnoticed."""


def load_run(path: Path | str, overrides: Sequence[str] = ()) -> tuple[RunFolder, Resolved, GenModule]:
    """A trained run, ready to sample: its averaged weights, in eval mode, on the CPU.

    Args:
        overrides: `KEY=VALUE` changes to its recipe, of the parts that sampling reads.

    Raises:
        UserError: not a run, or not trained yet. CorruptError: its weights cannot be read, or were trained as another
            model than the recipe's.
    """
    run = RunFolder.open(path)
    resolved = stored_recipe(run, overrides)
    tensors, metadata = load_weights(run.require_weights())
    check_trained_as(run, resolved, metadata)
    family = resolved.recipe.family
    base = [load_run(matched(run, metadata).path)[2]] if families.FAMILIES.get(family).distils else []
    module = families.module_class(family)(resolved.recipe, data_spec(run), *base)
    module.open_run = opens(run, resolved.recipe.teachers)
    try:
        module.model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CorruptError(f"does not fit the recipe beside it: {error}", str(run.weights)) from None
    return run, resolved, ready(module)


def trained_as(resolved: Resolved) -> str:
    """The recipe's process and preconditioning, by dotted key, as JSON for the metadata of weights."""
    values = leaves(resolved.recipe.model_dump(mode="json")["model"], "model")
    return json.dumps({key: value for key, value in values if key.startswith(MEANING)}, sort_keys=True)


def check_trained_as(run: RunFolder, resolved: Resolved, metadata: Mapping[str, str]) -> None:
    """A process or preconditioning that was changed in the recipe would read the same weights as something else.

    A key that only one of the two has is of another version of gentool.

    Raises:
        CorruptError: the recipe beside the weights says otherwise than the one they were trained by; tells where.
    """
    before, now = json.loads(metadata.get(TRAINED_AS, "{}")), json.loads(trained_as(resolved))
    pairs = {key: (_shown(before, key), _shown(now, key)) for key in {**before, **now}}
    other = [f"{key} was {old}, is {new}" for key, (old, new) in pairs.items() if old and new and old != new]
    if other:
        raise CorruptError(
            f"was trained as another model than the recipe beside it says: {'; '.join(other)}; bring the recipe back",
            str(run.weights),
        )


def _shown(values: Mapping[str, Any], key: str) -> str:
    """The value at a dotted key; a block of keys in its place; "" where there is neither."""
    if key in values:
        return repr(values[key])
    return "a block of keys" if any(item.startswith(f"{key}.") for item in values) else ""


def best_device() -> torch.device:
    """Where one process works: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def trained_model(path: str) -> GenModule:
    """The model of a trained run, for a module that its recipe names it to (`GenModule.open_run`)."""
    return load_run(path)[2]


def opens(run: RunFolder, teachers: Sequence[NamedRun]) -> Callable[[str], GenModule]:
    """What opens the runs that a recipe names: the copies that its own run keeps, wherever that lies by now.

    A run that has none yet (of an older gentool, or another process has not copied it whole) opens what was named.
    """
    folders = {each.source: each.folder for each in teachers}

    def opened(source: str) -> GenModule:
        copy = kept(run, folders[source]) if source in folders else None
        there = copy is not None and copy.weights.is_file()
        return trained_model(str(copy.path) if copy is not None and there else source)

    return opened


def ready(module: GenModule) -> GenModule:
    """The module for drawing alone: no dropout, no gradients, convolutions in the layout that runs fastest."""
    module.eval().requires_grad_(False)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 4:  # kernels of voxel grids have a dimension more, and this layout is not for them
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return module


def data_spec(run: RunFolder) -> DataSpec:
    """What the run was trained on.

    Raises:
        CorruptError: its provenance does not say.
    """
    try:
        return DataSpec.read(run.read_provenance()["data_spec"])
    except (KeyError, TypeError, ValueError):
        raise CorruptError(
            "does not say what the model was trained on (data_spec); go on with the run by "
            "`gentool train --resume`, which writes it again",
            str(run.provenance),
        ) from None


def stored_recipe(run: RunFolder, overrides: Sequence[str] = ()) -> Resolved:
    """The recipe of a run, under the name that it was trained by."""
    resolved = resolve(run.recipe, overrides, families.recipe_schema)
    return replace(resolved, name=run.read_provenance().get("recipe", resolved.name))


def origin(run: RunFolder, resolved: Resolved) -> dict[str, Any]:
    """What a file that the run's model made says of where it came from."""
    return {
        **describe_machine(),
        "run": run.path.name,
        "recipe": resolved.text,
        "model_sha256": fingerprint(run.weights),
    }
