"""What every benchmark shares: its options, the machine's description, medians, and the JSON it leaves.

A benchmark is `bench_<name>.py` with a `run(settings) -> Result`. `docs/generate.py` turns the JSON files of `results/`
into docs/claims.md: a claim that does not hold is written down as such, with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gentool.runs.atomic import write_json
from gentool.runs.provenance import describe_machine

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Claim:
    """One row of docs/claims.md.

    Attributes:
        claim: what is said, with its threshold.
        reported: what the paper or the peer reports ("" for our own targets).
        measured: the figure of this run, with its baseline in the same run.
        holds: whether the measured figure meets the claim.
        reason: why not, when it does not.
    """

    claim: str
    reported: str
    measured: str
    baseline: str
    holds: bool
    reason: str = ""


@dataclass(frozen=True)
class Result:
    figures: dict[str, Any]
    claims: Sequence[Claim]
    seeds: Sequence[int] = ()
    scale: str = ""
    recipe: str = ""


@dataclass(frozen=True)
class Settings:
    mode: str
    data_dir: Path
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def quick(self) -> bool:
        return self.mode == "quick"


def main(name: str, run: Callable[[Settings], Result], about: str | None) -> None:
    """Parses the options, runs, writes `results/<name>[-gpu].json` and prints the claims."""
    parser = argparse.ArgumentParser(prog=f"bench_{name}.py", description=about)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument(
        "--quick", action="store_const", dest="mode", const="quick", help="minutes on two CPU cores"
    )
    mode.add_argument(
        "--gpu", action="store_const", dest="mode", const="gpu", help="under 25 minutes on one H100"
    )
    parser.add_argument("--data-dir", type=Path, default=Path(".data"), help="folder with MNIST's IDX files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: benchmarks/results)")
    options = parser.parse_args()
    started = time.perf_counter()
    result = run(Settings(options.mode, options.data_dir, options.seed))
    machine = describe_machine()
    document = {
        "name": name,
        "mode": options.mode,
        "seconds": round(time.perf_counter() - started, 1),
        "device": device_name(),
        "versions": machine["versions"] | {"gentool": machine["gentool"], "python": machine["python"]},
        "git": machine["git"],
        "time": machine["time"],
        **asdict(result),
    }
    suffix = "" if options.mode == "quick" else f"-{options.mode}"
    path = options.out or RESULTS / f"{name}{suffix}.json"
    write_json(path, document)
    for claim in result.claims:
        print(
            f"{'holds' if claim.holds else 'FAILS'}  {claim.claim}: {claim.measured} (against {claim.baseline})"
        )
    print(json.dumps({"result": str(path), "seconds": document["seconds"]}))


def device_name() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def paired_ratio(
    ours: Callable[[], float], theirs: Callable[[], float], rounds: int
) -> tuple[float, float, float]:
    """Medians of alternating runs and of the ratios ours/theirs pair by pair: (ours, theirs, ratio)."""
    ours(), theirs()  # warm-up
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call, the GPU's queue included."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def child_cpu_seconds(command: Sequence[str]) -> float:
    """User and system CPU seconds of one child process."""
    import subprocess

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
