"""Names in a recipe's `sample:` and `evaluate:` blocks, checked before hours of training, not after. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gentool.diffusion.guidance import catalog as guidance
from gentool.diffusion.solvers.catalog import GRIDS, SOLVERS
from gentool.errors import RecipeError, UserError
from gentool.metrics.catalog import EXTRACTORS, METRICS
from gentool.recipes.schema import Evaluate, Sample

BITS_PER_DIM = "bits-per-dim"
"""The one figure of `gentool evaluate` that needs the model and no samples."""


def checked_sample(block: Sample) -> Sample:
    """The block itself.

    Raises:
        ValueError: an unknown solver, option, grid or guidance rule (pydantic gives it the place in the file).
    """
    with _as_value_error("solver"):
        SOLVERS.get(SOLVERS.check(block.solver)).check_options(block.options)
    if block.grid is not None:
        with _as_value_error("grid"):
            GRIDS.check(block.grid)
    with _as_value_error("guidance"):
        guidance.check(block.guidance)
    return block


def checked_evaluate(block: Evaluate) -> Evaluate:
    """The block itself; raises `ValueError` for an unknown metric or feature extractor."""
    with _as_value_error("metrics"):
        for name in block.metrics:
            if name != BITS_PER_DIM:
                METRICS.check(name)
    with _as_value_error("features"):
        EXTRACTORS.check(block.features)
    return block


@contextmanager
def _as_value_error(key: str) -> Iterator[None]:
    try:
        yield
    except RecipeError as error:
        raise ValueError("; ".join(f"{p.key}: {p.message}" for p in error.problems)) from None
    except UserError as error:
        raise ValueError(f"{key}: {error.message}") from None
