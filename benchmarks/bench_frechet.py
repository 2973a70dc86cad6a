"""FID of 10,000 images against cached statistics: time and memory of the distance, against torchmetrics."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Claim, Result, Settings, main, paired_ratio, seconds

if TYPE_CHECKING:
    from torch import Tensor

DIMENSIONS, IMAGES, REFERENCE, BATCH = 2048, 10_000, 20_000, 500


def features(count: int, seed: int, shift: float) -> Iterator[Tensor]:
    """Batches (B, d) float32 as Inception's are: correlated, not negative, with a spectrum that falls off."""
    import torch

    mixing = torch.randn(DIMENSIONS, DIMENSIONS, generator=torch.Generator().manual_seed(0)) / DIMENSIONS**0.5
    mixing *= torch.arange(1, DIMENSIONS + 1).float().rsqrt().unsqueeze(1) * 8
    draws = torch.Generator().manual_seed(seed)
    for _ in range(0, count, BATCH):
        yield torch.relu(torch.randn(BATCH, DIMENSIONS, generator=draws) @ mixing + shift)


def peer() -> Any:
    """torchmetrics' metric, which takes the features themselves as its images."""
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    extractor = torch.nn.Identity()
    extractor.num_features = DIMENSIONS
    return FrechetInceptionDistance(feature=extractor, compute_with_cache=False)


def cache_statistics(folder: Path) -> None:
    """What each side keeps of the reference set, in its own form."""
    import torch

    from gentool.metrics.moments import Moments

    ours, theirs = Moments(DIMENSIONS), peer()
    for batch in features(REFERENCE, 1, 0.1):
        ours.update(batch)
        theirs.update(batch, real=True)
    torch.save(ours.compute()._asdict(), folder / "ours.pt")
    torch.save({k: v for k, v in theirs.metric_state.items() if k.startswith("real")}, folder / "theirs.pt")


def prepared(side: str, folder: Path) -> Any:
    """A function that computes the distance, all features seen and the statistics loaded."""
    import torch

    stored = torch.load(folder / f"{side}.pt", weights_only=True)
    if side == "theirs":
        metric = peer()
        for name, value in stored.items():
            setattr(metric, name, value)
        for batch in features(IMAGES, 2, 0.12):
            metric.update(batch, real=False)
        return lambda: float(metric.compute())

    from gentool.metrics.frechet import frechet_distance
    from gentool.metrics.moments import Gaussian, Moments

    seen, reference = Moments(DIMENSIONS), Gaussian(**stored)
    for batch in features(IMAGES, 2, 0.12):
        seen.update(batch)
    return lambda: frechet_distance(seen.compute(), reference)


def peak(side: str, folder: Path) -> tuple[float, float]:
    """(MiB in all, MiB above what the imports took) at most, of a process that does this one thing."""
    import torchmetrics.image.fid  # noqa: F401  # both children start from the same imports

    import gentool.metrics.frechet  # noqa: F401

    start = _peak_mib()
    prepared(side, folder)()
    return _peak_mib(), _peak_mib() - start


def _peak_mib() -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def run(settings: Settings) -> Result:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Children first: on Linux a child's ru_maxrss starts from its parent's, small until it imports torch.
        with context.Pool(1) as pool:
            pool.apply(cache_statistics, (folder,))
        memory = {}
        for side in ("ours", "theirs"):
            with context.Pool(1) as pool:
                memory[side] = pool.apply(peak, (side, folder))
        ours, theirs = prepared("ours", folder), prepared("theirs", folder)
        values = ours(), theirs()
        times = paired_ratio(
            lambda: seconds(ours), lambda: seconds(theirs), rounds=3 if settings.quick else 5
        )
    error = abs(values[0] - values[1]) / max(1.0, values[1])
    whole = memory["ours"][0] / memory["theirs"][0]
    growth = memory["ours"][1] / memory["theirs"][1]
    baseline = "torchmetrics' FrechetInceptionDistance.compute, same features"
    return Result(
        figures={
            "fid": values[0],
            "fid_torchmetrics": values[1],
            "relative_error": error,
            "seconds": times.ours,
            "seconds_torchmetrics": times.theirs,
            "speedup": 1 / times.ratio,
            "speedup_range": [1 / times.high, 1 / times.low],
            "peak_mib": memory["ours"][0],
            "peak_mib_torchmetrics": memory["theirs"][0],
            "growth_mib": memory["ours"][1],
            "growth_mib_torchmetrics": memory["theirs"][1],
        },
        claims=[
            Claim(
                "the distance is at least 3 times faster at 2,048 dimensions",
                "",
                f"{1 / times.ratio:.1f} times ({times.ours:.2f} s against {times.theirs:.2f} s)",
                f"{baseline}, alternating",
                1 / times.ratio >= 3,
            ),
            Claim(
                "and equal to 1e-6",
                "",
                f"{values[0]:.6f} and {values[1]:.6f}: {error:.1e} apart, of max(1, FID)",
                baseline,
                error <= 1e-6,
                "torchmetrics returns float32, whose last digit is worth 6e-8 of the figure",
            ),
            Claim(
                "peak memory is no more than 1.2 times as large",
                "",
                f"{whole:.2f} ({memory['ours'][0]:.0f} MiB; {growth:.2f} without the imports)",
                "a process that sees 10,000 images' features and computes torchmetrics' distance",
                max(whole, growth) <= 1.2,
            ),
        ],
        seeds=(1, 2),
        scale=f"{IMAGES:,} images against the statistics of {REFERENCE:,}, {DIMENSIONS:,} dimensions",
    )


if __name__ == "__main__":
    main("frechet", run, __doc__)
