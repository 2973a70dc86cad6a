"""Data sets by name. Importing this package costs no torch; using it does.

from gentool import data
train = data.open_set(data.make_config("digits", {}), "train")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gentool.registry import resolve

if TYPE_CHECKING:
    from gentool.data.config import make_config as make_config
    from gentool.data.config import parse_source as parse_source
    from gentool.data.dataset import Batch as Batch
    from gentool.data.dataset import DataSet as DataSet
    from gentool.data.dataset import open_set as open_set
    from gentool.data.order import StepBatches as StepBatches
    from gentool.data.order import loader as loader
    from gentool.data.pixels import to_model as to_model
    from gentool.data.pixels import to_uint8 as to_uint8
    from gentool.data.spec import DataSpec as DataSpec

_EXPORTS = {
    "make_config": "config",
    "parse_source": "config",
    "Batch": "dataset",
    "DataSet": "dataset",
    "open_set": "dataset",
    "StepBatches": "order",
    "loader": "order",
    "to_model": "pixels",
    "to_uint8": "pixels",
    "DataSpec": "spec",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve(f"{__name__}.{_EXPORTS[name]}:{name}")
