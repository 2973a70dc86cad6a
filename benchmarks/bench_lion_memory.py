"""Memory that judging 405 against 405 clouds of 2,048 points takes, by each distance: its blocks do not grow."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from typing import Any

from common import Claim, Result, Settings, main, say
from models import device

CLOUDS, POINTS = 405, 2048
"""Airplanes of the published protocol's reference set."""
MOST_GB = 8.0
STEADY = 1.05
"""Peaks of more and of fewer rows that differ by less than this factor are the same."""
PARTS = {
    "cd": ((2, 8), CLOUDS),
    "emd-approx": ((1, 2), 10),
    "emd-exact": ((1, 2), 10),
}
"""Rows taken, fewer and more, and columns. A block holds as many columns as fit into its bytes, 4 of these; all rows go
one after the other, so that a part shows what the whole takes."""


def matrix(name: str) -> Any:
    """The distances (n, m) that the metric `cloud-<name>` takes."""
    from gentool.metrics import clouds
    from gentool.points.distances import emd

    if name == "cd":
        return clouds.chamfer_pairs
    form: Any = name.removeprefix("emd-").replace("approx", "approximate")
    return lambda x, y: clouds.pairs(x, y, lambda a, b: emd(a, b, form))


def peak(name: str, rows: int, columns: int, seed: int) -> dict[str, float]:
    """Gigabytes at most of a process (on a GPU: of its tensors) with both sets in memory that takes a part's distances,
    and those that it took before it began."""
    import torch

    from gentool.metrics.clouds import nearest_neighbour_accuracy

    draws = torch.Generator().manual_seed(seed)
    references, samples = (torch.randn(CLOUDS, POINTS, 3, generator=draws).to(device()) for _ in range(2))
    distances, before = matrix(name), _peak_gb()
    found = distances(references[:rows], samples[:columns])
    assert found.shape == (rows, columns)
    nearest_neighbour_accuracy(*(torch.rand(CLOUDS, CLOUDS, generator=draws) for _ in range(3)))
    return {"rows": rows, "columns": columns, "before": before, "peak": _peak_gb()}


def _peak_gb() -> float:
    import torch

    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def run(settings: Settings) -> Result:
    context = multiprocessing.get_context("spawn")
    found: dict[str, list[dict[str, float]]] = {}
    for name, (counts, columns) in PARTS.items():
        found[name] = []
        for rows in counts:
            with context.Pool(1) as pool:  # a process of its own: a peak is never taken back
                found[name].append(pool.apply(peak, (name, rows, columns, settings.seed)))
            say(f"{name}: {found[name][-1]}")
    peaks = {name: [row["peak"] for row in rows] for name, rows in found.items()}
    said = ", ".join(f"{name} {rows[-1]:.2f}" for name, rows in peaks.items())
    ratios = {name: rows[-1] / rows[0] for name, rows in peaks.items()}
    grown = ", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items())
    return Result(
        figures={"gigabytes": found},
        claims=[
            Claim(
                f"judging {CLOUDS} against {CLOUDS} clouds of {POINTS} points stays below {MOST_GB:g} GB",
                "",
                f"{said} GB at most, of the whole process",
                "the block's bound; all pairs' distances of points at once would be 2752 GB",
                all(rows[-1] < MOST_GB for rows in peaks.values()),
            ),
            Claim(
                "and the peak does not depend on how many rows there are",
                "",
                f"{grown} times",
                "the same with fewer rows, each in a process of its own",
                all(ratio < STEADY for ratio in ratios.values()),
            ),
        ],
        seeds=(settings.seed,),
        scale="both sets in memory, their 1-NNA matrices whole; distances of "
        + ", ".join(f"{rows[-1]} x {columns} ({name})" for name, (rows, columns) in PARTS.items())
        + " pairs at full block size",
    )


if __name__ == "__main__":
    main("lion_memory", run, __doc__)
