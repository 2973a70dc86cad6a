"""Data sets by name: the registry and the recipe class of each."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gentool.data.options import DataConfig as DataConfig
from gentool.data.options import ImageConfig as ImageConfig
from gentool.errors import UserError, did_you_mean
from gentool.recipes.overrides import parse_pairs
from gentool.registry import Registry

_OWN = {
    "digits": "gentool.data.sets.digits:DigitsConfig",
    "mnist": "gentool.data.sets.mnist:MnistConfig",
    "fashion-mnist": "gentool.data.sets.mnist:FashionMnistConfig",
    "stacked-mnist": "gentool.data.sets.stacked_mnist:StackedMnistConfig",
    "cifar10": "gentool.data.sets.cifar10:Cifar10Config",
    "images": "gentool.data.sets.images:ImagesConfig",
    "hdf5": "gentool.data.sets.hdf5:Hdf5Config",
    "npz": "gentool.data.sets.npz:NpzConfig",
    "toy2d": "gentool.data.sets.toy2d:Toy2dConfig",
    "shapes": "gentool.data.sets.shapes:ShapesConfig",
    "mnist-clouds": "gentool.data.sets.mnist_clouds:MnistCloudsConfig",
    "meshes": "gentool.data.sets.meshes:MeshesConfig",
    "modelnet": "gentool.data.sets.modelnet:ModelNetConfig",
    "shapenet15k": "gentool.data.sets.shapenet15k:ShapeNet15kConfig",
    "shapenet-vol": "gentool.data.sets.shapenet_vol:ShapeNetVolConfig",
}
SETS: Registry[type[DataConfig]] = Registry("data set", _OWN, group="gentool.data")


def _load(sets: Registry[type[DataConfig]]) -> dict[str, type[DataConfig]]:
    """Every class; a third party's set that cannot be imported must not take the others down with it."""
    found = {}
    for name in sets:
        try:
            found[name] = sets.get(name)
        except Exception as error:
            if name in _OWN:
                raise
            warnings.warn(f"the data set {name!r} of another package cannot be imported: {error!r}")
    return found


CONFIGS: dict[str, type[DataConfig]] = _load(SETS)
"""Every data set's recipe class."""

_BY_SUFFIX = {".h5": "hdf5", ".hdf5": "hdf5", ".npz": "npz", ".zip": "images", ".tar": "images"}


def make_config(name: str, options: Mapping[str, Any]) -> DataConfig:
    """The checked options of a data set, from plain values (lists for tuples).

    Raises:
        UserError: unknown set, or all faults of the options, a line each.
    """
    try:
        # By way of JSON: strict validation takes a list for a tuple there, and nothing else more.
        return SETS.get(name).model_validate_json(json.dumps({"name": name, **options}))
    except (ValidationError, TypeError) as error:
        raise UserError("\n".join(_faults(name, error)), f"data set {name}") from error


def _faults(name: str, error: ValidationError | TypeError) -> list[str]:
    if isinstance(error, TypeError):
        return [str(error)]
    known = list(SETS.get(name).model_fields)
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(map(str, fault["loc"]))
        hint = (
            f"unknown option{did_you_mean(key, known)}"
            if fault["type"] == "extra_forbidden"
            else fault["msg"]
        )
        lines.append(f"{key}: {hint}" if key else hint)
    return lines


def parse_source(source: str, options: Sequence[str] = ()) -> DataConfig:
    """A data set as the command line names it: a set's name, or a path; `KEY=VALUE` options with values as in recipes.

    A path is `images` (folder, tar, zip), `hdf5` (.h5) or `npz` (.npz).

    Raises:
        UserError: neither a set nor a path; an option that is not KEY=VALUE, unknown, or of the wrong type.
    """
    given = parse_pairs(options, "options")
    if source in SETS:
        return make_config(source, given)
    path = Path(source)
    if not path.exists():
        raise UserError(
            f"neither a data set nor a path{did_you_mean(source, SETS.names())} "
            f"(the sets are {', '.join(SETS)})",
            source,
        )
    suffix = next((s for s in path.suffixes[-2:] if s in _BY_SUFFIX), "") if path.is_file() else ".tar"
    if not suffix:
        raise UserError("expected a folder, .tar, .zip, .h5 or .npz", source)
    return make_config(_BY_SUFFIX[suffix], {"path": source, **given})
