"""Names in a recipe's `sample:` and `evaluate:` blocks, checked before hours of training, not after. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from pydantic import ValidationError, ValidationInfo, create_model, field_validator

from gentool.diffusion.guidance import catalog as guidance
from gentool.diffusion.solvers.catalog import GRIDS, SOLVERS
from gentool.errors import RecipeError, UserError, did_you_mean
from gentool.metrics.catalog import EXTRACTORS, METRICS
from gentool.recipes.schema import Evaluate, Sample

BITS_PER_DIM = "bits-per-dim"
"""The one figure of `gentool evaluate` that needs the model and no samples."""


class CheckedSample(Sample):
    """The `sample:` block with its names and options checked; a fault is told at its own key."""

    state_parts: ClassVar[int] = 1

    @field_validator("solver")
    @classmethod
    def _solver(cls, name: str) -> str:
        with _as_value_error():
            SOLVERS.target(name, cls.state_parts)
        return name

    @field_validator("grid")
    @classmethod
    def _grid(cls, name: str | None) -> str | None:
        with _as_value_error():
            return name if name is None else GRIDS.check(name)

    @field_validator("options")
    @classmethod
    def _options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "solver" in info.data:  # absent when its own check failed
            with _as_value_error():
                SOLVERS.get(info.data["solver"]).check_options(options)
        return options

    @field_validator("guidance")
    @classmethod
    def _guidance(cls, rules: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        with _as_value_error():
            guidance.check(rules)
        return rules

    @field_validator("presets")
    @classmethod
    def _presets(cls, presets: dict[str, dict[str, Any]], info: ValidationInfo) -> dict[str, dict[str, Any]]:
        """Each preset must leave a block that is right as a whole."""
        keys = [key for key in cls.model_fields if key != "presets"]
        if set(keys) - set(info.data):  # the block is wrong without them
            return presets
        block = cls.model_construct(**info.data, presets=presets)
        for name, given in presets.items():
            for key in given:
                if key not in keys:
                    raise ValueError(f"{name}.{key}: unknown key{did_you_mean(key, keys)}")
            whole = block.model_dump(mode="json", exclude={"presets"}) | block.preset(name)
            try:
                # As JSON, where strict checks take what YAML gives.
                cls.model_validate_json(json.dumps(whole))
            except ValidationError as error:
                faults = (f"{'.'.join(map(str, (name, *e['loc'])))}: {e['msg']}" for e in error.errors())
                raise ValueError("; ".join(faults)) from None
        return presets


def checked_sample(block: type[Sample], state_parts: int) -> type[CheckedSample]:
    """`CheckedSample` with the keys and defaults of a family's own block, for solvers of its states."""
    if block is Sample and state_parts == CheckedSample.state_parts:
        return CheckedSample
    bases: Any = (CheckedSample,) if block is Sample else (block, CheckedSample)
    made: type[CheckedSample] = create_model(f"Checked{block.__name__}", __base__=bases)
    made.state_parts = state_parts
    return made


class CheckedEvaluate(Evaluate):
    """The `evaluate:` block with its names checked."""

    @field_validator("metrics")
    @classmethod
    def _metrics(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        with _as_value_error():
            for name in names:
                if name != BITS_PER_DIM:
                    METRICS.check(name)
        return names

    @field_validator("features")
    @classmethod
    def _features(cls, name: str) -> str:
        with _as_value_error():
            return EXTRACTORS.check(name)


@contextmanager
def _as_value_error() -> Iterator[None]:
    """What a registry refuses as the error that pydantic gives a place to."""
    try:
        yield
    except RecipeError as error:
        raise ValueError("; ".join(f"{p.key}: {p.message}" for p in error.problems)) from None
    except UserError as error:
        raise ValueError(error.message) from None
