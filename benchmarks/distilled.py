"""GENIE's heads trained and measured inside a benchmark: one base, several heads, the same noise and grid for all."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Claim, say
from models import Judge, device

if TYPE_CHECKING:
    from torch import Tensor

    from gentool.data import DataSet
    from gentool.families.genie.module import GenieModule

STEPS = (5, 10, 15)
FINE = 200
"""Heun steps, uniform in log-SNR, to where errors are measured."""
ABLATIONS = {
    "genie": (),
    "genie, no mixing": ("model.mixed=false",),
    "genie, no weight": ("model.weight=none",),
}
FREE: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("ddim", {}),
    "ipndm-2": ("ipndm", {"order": 2}),
    "s-pndm": ("pndm", {"start": "s", "order": 2}),
    "dpmpp-2m": ("dpmpp-2m", {}),
    "ttm2": ("ttm2", {}),
}
"""What needs no training: multistep solvers at one call a step (s-pndm one more), and the exact derivative at three."""
MULTISTEP = ("ipndm-2", "s-pndm", "dpmpp-2m")


@dataclass(frozen=True)
class Plan:
    """base, head: recipes with their overrides; count: samples a figure; grids: by name, all solvers on each; heads:
    which of `ABLATIONS` are trained."""

    base: str
    base_overrides: tuple[str, ...]
    head: str
    head_overrides: tuple[str, ...]
    count: int
    grids: tuple[str, ...] = ("uniform-t", "power-t")
    heads: tuple[str, ...] = tuple(ABLATIONS)


def study(plan: Plan, seed: int, extra: Sequence[str] = (), judge: bool = True) -> dict[str, Any]:
    """Figures by grid and solver: {grid: {solver: [{steps, nfe, error, distance}]}}, and what training cost.

    `error` is the root mean square over pixels (of [-1, 1]) to where the base's own flow ends; `distance` the Frechet
    distance to the training data in the features of the evaluation's classifier.

    Args:
        extra: overrides of the data, for base and heads alike.
    """
    from gentool.data import open_set
    from gentool.tasks.model.load import load_run
    from gentool.tasks.train import train

    figures: dict[str, Any] = {"training": {}, "grids": {}}
    with tempfile.TemporaryDirectory() as folder:
        base = train(plan.base, (*plan.base_overrides, *extra, f"seed={seed}"), run_dir=Path(folder) / "base")
        say(f"trained {plan.base} for {base.steps} steps in {base.seconds:.0f} s: loss {base.loss:.4g}")
        figures["training"]["base"] = {"steps": base.steps, "seconds": base.seconds, "loss": base.loss}
        heads: dict[str, GenieModule] = {}
        for name in plan.heads:
            overrides = (*plan.head_overrides, *extra, *ABLATIONS[name], f"base={base.run}", f"seed={seed}")
            done = train(plan.head, overrides, run_dir=Path(folder) / name.replace(" ", "-"))
            say(f"{name}: {done.steps} steps in {done.seconds:.0f} s, loss {done.loss:.4g}")
            figures["training"][name] = {"steps": done.steps, "seconds": done.seconds, "loss": done.loss}
            heads[name] = load_run(done.run)[2].to(device())  # type: ignore[assignment]
    data = open_set(heads["genie"].recipe.data, "train")
    end, _ = drawn(heads["genie"], plan.count, seed, "edm", {}, FINE, "log-snr", {"final": "t-min"})
    eye = Eye(data) if judge else None
    figures["fine_distance"] = None if eye is None else eye(end)
    for grid in plan.grids:
        figures["grids"][grid] = by_solver(heads, end, grid, seed, eye)
    return figures


class Eye:
    """Frechet distance of samples to the training data, in the features of the evaluation's classifier."""

    def __init__(self, data: DataSet) -> None:
        self.judge = Judge(data)
        self.reference = self.judge.moments(data.take(range(len(data))).x)

    def __call__(self, x: Tensor) -> float:
        from gentool.data import to_uint8

        return self.judge.distance(to_uint8(x), self.reference)


def by_solver(
    heads: Mapping[str, GenieModule], end: Tensor, grid: str, seed: int, eye: Eye | None
) -> dict[str, Any]:
    """The rows of one grid: every solver at `STEPS` steps, from the noise that the flow takes to `end`."""
    full, count = heads["genie"], len(end)
    runs = {name: (full, solver, options) for name, (solver, options) in FREE.items()}
    runs |= {name: (module, "genie", {}) for name, module in heads.items()}
    rows: dict[str, Any] = {}
    for name, (module, solver, options) in runs.items():
        rows[name] = []
        for steps in STEPS:
            x, nfe = drawn(module, count, seed, solver, options, steps, grid, {})
            row = {"steps": steps, "nfe": nfe, "error": float((x - end).double().square().mean().sqrt())}
            if eye is not None:
                row["distance"] = eye(x)
            rows[name].append(row)
        say(f"{grid}, {name}: " + ", ".join(f"{row['error']:.4g}" for row in rows[name]))
    return rows


def drawn(
    module: GenieModule,
    count: int,
    seed: int,
    solver: str,
    options: dict[str, Any],
    steps: int,
    grid: str,
    grid_options: dict[str, Any],
) -> tuple[Tensor, float]:
    """(samples in model space on the CPU, network calls a sample); sample i has the same noise whatever the solver."""
    import torch

    from gentool.recipes.schema import Sample
    from gentool.training.sampling import SampleRequest

    settings = Sample(solver=solver, options=options, steps=steps, grid=grid, grid_options=grid_options)
    parts, nfe = [], 0.0
    with torch.no_grad():
        for start in range(0, count, 500):
            rows = range(start, min(start + 500, count))
            labels = torch.tensor([i % module.classes for i in rows]) if module.classes else None
            request = SampleRequest(
                seed, rows, None if labels is None else labels.to(device()), settings, device=device()
            )
            done = module.draw(request)
            parts.append(done.x.cpu())
            nfe = done.nfe
    return torch.cat(parts), nfe


def claims(figures: Mapping[str, Any], limit: float, data: str, grid: str) -> list[Claim]:
    """What is claimed of one grid of a study; `limit` is the share of DDIM's error that GENIE may have."""
    rows = figures["grids"][grid]
    error, distance = (
        {name: {row["steps"]: row[what] for row in found} for name, found in rows.items()}
        for what in ("error", "distance")
    )
    where = f"{data}, {grid} steps"
    made = [
        Claim(
            f"{where}: GENIE's error at {n} calls is at most {limit} of DDIM's",
            "CIFAR-10 (FID at 10 calls): GENIE 5.28, DDIM 11.6" if n == 10 else "",
            f"{error['genie'][n]:.3g} ({error['genie'][n] / error['ddim'][n]:.2f} times)",
            f"DDIM {error['ddim'][n]:.3g}, same network, noise and grid",
            error["genie"][n] <= limit * error["ddim"][n],
        )
        for n in STEPS
    ]

    def listed(name: str, of: Mapping[str, Mapping[int, float]]) -> str:
        return f"{name} " + ", ".join(f"{of[name][n]:.3g}" for n in STEPS)

    counts = ", ".join(map(str, STEPS))
    worse = [n for n in STEPS if distance["genie"][n] >= distance["ddim"][n]]
    made.append(
        Claim(
            f"{where}: GENIE's samples are nearer to the data than DDIM's at {counts} calls",
            "",
            listed("genie", distance),
            f"{listed('ddim', distance)}; the fine trajectory {figures['fine_distance']:.3g} (Frechet distance, "
            "features of the evaluation's classifier)",
            not worse,
            f"not at {', '.join(map(str, worse))} calls" if worse else "",
        )
    )
    for name, reported in (
        ("genie, no mixing", "CIFAR-10 (FID at 5 calls): 14.7 against 13.9 with mixing"),
        ("genie, no weight", "CIFAR-10 (FID at 5 calls): 14.8 against 13.9 with the weight"),
    ):
        if name not in error:
            continue
        better = [n for n in STEPS if error[name][n] <= error["genie"][n]]
        made.append(
            Claim(
                f"{where}: {name.removeprefix('genie, ')} is worse at {counts} calls",
                reported,
                listed(name, error),
                f"{listed('genie', error)}, same base and training",
                not better,
                f"it is better at {', '.join(map(str, better))} calls" if better else "",
            )
        )
    ahead = [f"{name} at {n}" for n in STEPS for name in MULTISTEP if error[name][n] <= error["genie"][n]]
    made.append(
        Claim(
            f"{where}: GENIE's error is below that of multistep solvers, which need no training",
            "the paper compares with S-PNDM and F-PNDM: ahead of both up to 15 calls",
            listed("genie", error),
            "; ".join(listed(name, error) for name in (*MULTISTEP, "ttm2"))
            + f" (s-pndm takes a call more, ttm2 three a step) at {counts} steps",
            not ahead,
            f"behind {', '.join(ahead)}" if ahead else "",
        )
    )
    return made
