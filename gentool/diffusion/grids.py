"""Step grids: N steps are N+1 noise levels, noisiest first, in float64. The rules are in `grid_rules.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as strict_dataclass
from torch import Tensor

from gentool.diffusion.process import Process
from gentool.diffusion.solvers.catalog import GRIDS
from gentool.errors import UserError, did_you_mean

Final = Literal["zero", "t-min"]


@dataclass(frozen=True)
class Grid:
    """Where a solver steps. `t`, `sigma`: (N+1,) float64 on the CPU, sigma strictly monotone (decreasing to
    sample).

    `name` is the rule that made it, `final` whether the last level is sigma = 0 or the end of the range, and
    `notes` what the user should hear about it.
    """

    name: str
    t: Tensor
    sigma: Tensor
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        return len(self.sigma) - 1

    @property
    def lam(self) -> Tensor:
        """-ln sigma, (N+1,); infinite at sigma = 0."""
        return -self.sigma.log()

    @property
    def final(self) -> Final:
        return "zero" if self.sigma.min() == 0 else "t-min"

    def reversed(self) -> Grid:
        """The same levels from data to noise, for encoding."""
        return replace(self, t=self.t.flip(0), sigma=self.sigma.flip(0))


@strict_dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class GridOptions:
    """What a grid can be told; `None` means the process's own range.

    final: `zero` (the last step lands on sigma = 0: x = x0) or `t-min` (it lands on the end of the range);
        absent, the rule's own custom.
    t_max, t_min, sigma_max, sigma_min: the range, by time or by noise level (sigma = std/alpha), within the
        process's.
    rho: karras's exponent. kappa: power-t's exponent. power: poly-exp's exponent. levels: of a discrete
        model.
    """

    SHAPES: ClassVar[frozenset[str]] = frozenset({"rho", "kappa", "power", "levels"})
    """Options that only some grids read."""

    final: Final | None = None
    t_max: float | None = None
    t_min: float | None = None
    sigma_max: float | None = None
    sigma_min: float | None = None
    rho: Annotated[float, Field(gt=0)] = 7.0
    kappa: Annotated[float, Field(gt=0)] = 2.0
    power: Annotated[float, Field(gt=0)] = 1.0
    levels: Annotated[int, Field(ge=2)] = 1000


class Rule(ABC):
    """How a named grid places its levels.

    Attributes:
        final: what it does at the clean end when nothing is said.
        shape: names of the options of `GridOptions.SHAPES` that it reads; the others are refused, since they would do
            nothing.
    """

    final: Final
    shape: tuple[str, ...] = ()

    @abstractmethod
    def levels(
        self, steps: int, final: Final, high: float, low: float, process: Process, opts: GridOptions
    ) -> Tensor:
        """Positive levels, noisiest first: steps of them before a final zero, else steps + 1."""


def make_grid(name: str, steps: int, process: Process, **options: Any) -> Grid:
    """The grid `name` with `steps` steps for a process; options as in `GridOptions`.

    With `final="zero"`, N counts the step to 0: N levels lie in the range (N = 1: its noisy end alone) and 0
    follows.

    Raises:
        UserError: unknown name or option, one that this grid does not read, steps < 1, or a range outside the
            process's.
    """
    rule: Rule = GRIDS.get(name)
    if steps < 1:
        raise UserError(f"steps must be at least 1, not {steps}", "steps")
    opts = _options(name, options, rule.shape)
    high, low = _range(process, opts)
    final = opts.final or rule.final
    return _finish(name, steps, rule.levels(steps, final, high, low, process, opts), final, process)


def custom_grid(sigma: Tensor, process: Process, name: str = "custom") -> Grid:
    """A grid of given levels, (N+1,) decreasing, the last one 0 or more.

    Raises:
        UserError: fewer than two levels, or a sequence that does not decrease.
    """
    levels = sigma.to(torch.float64).cpu()
    if (
        levels.dim() != 1
        or len(levels) < 2
        or not bool((levels.diff() < 0).all())
        or not bool(levels[-1] >= 0)
    ):
        raise UserError("expected at least two noise levels, strictly decreasing, the last 0 or more", name)
    return Grid(name, _times(levels, process), levels)


def _finish(name: str, steps: int, sigma: Tensor, final: Final, process: Process) -> Grid:
    if not bool(sigma.isfinite().all()):
        raise UserError(f"the grid {name} has no finite levels in this range: ask for another range", "grid")
    kept = sigma[torch.cat([torch.tensor([True]), sigma.diff() < 0])]
    if final == "zero":
        kept = torch.cat([kept, torch.zeros(1, dtype=torch.float64)])
    if len(kept) < 2:
        raise UserError(
            f"the grid {name} has a single noise level in this range: ask for another range", "grid"
        )
    notes: tuple[str, ...] = ()
    if len(kept) - 1 != steps:
        notes = (
            f"grid {name}: {steps} steps asked for, {len(kept) - 1} remain: "
            "other levels coincide or lie outside the range",
        )
    return Grid(name, _times(kept, process), kept, notes)


def _times(sigma: Tensor, process: Process) -> Tensor:
    """Process times of the levels; sigma = 0 is time 0, where some processes have no inverse."""
    positive = sigma > 0
    t = torch.zeros_like(sigma)
    t[positive] = process.t_of_sigma(sigma[positive])
    return t


def _options(name: str, options: dict[str, Any], shape: tuple[str, ...]) -> GridOptions:
    known = [key for key in GridOptions.__dataclass_fields__ if key not in GridOptions.SHAPES or key in shape]
    for key in options:
        if key not in known:
            raise UserError(
                f"unknown option {key!r} of grid {name}{did_you_mean(key, known)} "
                f"(there are: {', '.join(known)})",
                "grid",
            )
    try:
        return GridOptions(**options)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{first['msg'].lower()}, not {first['input']!r}", f"grid.{first['loc'][0]}"
        ) from None


def _range(process: Process, opts: GridOptions) -> tuple[float, float]:
    """(noisy, clean) end as sigma, checked against the process's own range."""
    ends = []
    for end, default in (("max", process.sigma_max), ("min", process.sigma_min)):
        t, sigma = getattr(opts, f"t_{end}"), getattr(opts, f"sigma_{end}")
        if t is not None and sigma is not None:
            raise UserError(f"give t_{end} or sigma_{end}, not both", f"grid.t_{end}")
        if t is not None:
            if not process.t_min <= t <= process.t_max:
                raise UserError(
                    f"expected a time in [{process.t_min:g}, {process.t_max:g}], not {t:g}", f"grid.t_{end}"
                )
            sigma = float(process.sigma(torch.tensor(t, dtype=torch.float64)))
        elif sigma is not None:
            slack = 1e-9  # a level printed with 10 digits is the level
            if not process.sigma_min * (1 - slack) <= sigma <= process.sigma_max * (1 + slack):
                interval = f"[{process.sigma_min:g}, {process.sigma_max:g}]"
                raise UserError(f"expected a noise level in {interval}, not {sigma:g}", f"grid.sigma_{end}")
        ends.append(default if sigma is None else sigma)
    high, low = ends
    if not low < high:
        raise UserError(f"the range is empty: it goes from sigma {high:g} down to {low:g}", "grid")
    if low <= 0:
        raise UserError(
            "the clean end must be above sigma = 0; ask for final='zero' to land on 0", "grid.sigma_min"
        )
    return high, low
