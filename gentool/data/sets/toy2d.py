"""`toy2d`: Gaussian mixtures in the plane: a ring, a grid, or one's own. The labels are the components."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from gentool.data.options import DataConfig, Split
from gentool.recipes.schema import Positive

if TYPE_CHECKING:
    from gentool.data.mixture import Mixture
    from gentool.data.source import Source

Scale = Annotated[float, Field(gt=0)]


class Toy2dConfig(DataConfig):
    """Points in the plane with a known density."""

    name: Literal["toy2d"] = "toy2d"
    """Gaussian mixtures in the plane, density known."""
    layout: Literal["ring", "grid", "own"] = "ring"
    """ring: `modes` on a circle of `radius`; grid: `side` x `side` in [-radius, radius]^2; own: `means`."""
    modes: Positive = 8
    """Components on the ring."""
    side: Annotated[int, Field(ge=2)] = 5
    """Components along a side of the grid."""
    radius: Scale = 1.0
    """Radius of the ring, half-width of the grid."""
    std: Scale | tuple[Scale, ...] = 0.05
    """Standard deviation of the components, one for all or one each."""
    means: tuple[tuple[float, float], ...] | None = None
    """Centres of the layout `own`."""
    weights: tuple[Scale, ...] | None = None
    """Relative weights of the components; absent: equal."""
    count: Positive = 20_000
    """Training points; the test part has a tenth, at least 1000, drawn independently."""

    what: ClassVar[str] = "points in the plane: ring of 8, grid of 25 or your own Gaussians, density known"
    origin: ClassVar[str] = "drawn here; no download"

    @model_validator(mode="after")
    def _consistent(self) -> Toy2dConfig:
        if (self.layout == "own") != (self.means is not None):
            raise ValueError("`means` and layout: own go together")
        if self.means == ():
            raise ValueError("`means` is empty")
        count = len(self._centres())
        for key, values in (("std", self.std), ("weights", self.weights)):
            if isinstance(values, tuple) and len(values) != count:
                raise ValueError(f"`{key}` has {len(values)} entries for {count} components")
        return self

    def _centres(self) -> list[tuple[float, float]]:
        if self.means is not None:
            return list(self.means)
        if self.layout == "ring":
            angles = [2 * math.pi * k / self.modes for k in range(self.modes)]
            return [(self.radius * math.cos(a), self.radius * math.sin(a)) for a in angles]
        ticks = [self.radius * (2 * k / (self.side - 1) - 1) for k in range(self.side)]
        return [(x, y) for x in ticks for y in ticks]

    def mixture(self) -> Mixture:
        """The density that the points are drawn from, with its exact denoiser."""
        import numpy as np  # here, not above: a recipe is checked without it

        from gentool.data.mixture import Mixture

        means = np.array(self._centres())
        stds = np.broadcast_to(np.array(self.std, np.float64), len(means)).copy()
        weights = np.ones(len(means)) if self.weights is None else np.array(self.weights)
        return Mixture(means, stds, weights / weights.sum())

    def has_test(self) -> bool:
        return True

    def published(self) -> int:
        return self.count

    def source(self, split: Split) -> Source:
        from gentool.data.arrays import ArraySource

        mixture = self.mixture()
        train = split == "train"
        points, labels = mixture.sample(
            self.count if train else max(1000, self.count // 10), key=1 if train else 2
        )
        names = tuple(f"({x:.3g}, {y:.3g})" for x, y in mixture.means)
        return ArraySource("toy2d", points, labels, names)
