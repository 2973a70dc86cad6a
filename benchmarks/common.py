"""What every benchmark shares: its options, the machine's description, medians, and the JSON it leaves.

A benchmark is `bench_<name>.py` with a `run(settings) -> Result`. `docs/generate.py` turns the JSON files of
`results/` into docs/claims.md: a claim that does not hold is written down as such, with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
# `python benchmarks/bench_x.py` measures the checkout it lies in, whatever is installed; children inherit it.
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

from gentool.runs.atomic import write_json  # noqa: E402  # the checkout's, found by the lines above
from gentool.runs.provenance import describe_machine  # noqa: E402


@dataclass(frozen=True)
class Claim:
    """One row of docs/claims.md.

    Attributes:
        claim: what is said, with its threshold.
        reported: what the paper or the peer reports ("" for our own targets).
        measured: the figure of this run.
        baseline: what it was compared with, in the same run.
        holds: whether the measured figure meets the claim.
        reason: why not, where that is known; shown only when the claim does not hold.
    """

    claim: str
    reported: str
    measured: str
    baseline: str
    holds: bool
    reason: str = ""


@dataclass(frozen=True)
class Result:
    """What a benchmark found.

    Attributes:
        figures: every number behind the claims, by name.
        scale: sizes, counts and how often, in words.
        recipe: the shipped recipe, with its overrides, where there is one.
    """

    figures: dict[str, Any]
    claims: Sequence[Claim]
    seeds: Sequence[int] = ()
    scale: str = ""
    recipe: str = ""


@dataclass(frozen=True)
class Document(Result):
    """`results/<name>.json`: a `Result` and where it came from.

    Attributes:
        seconds: wall time of the whole benchmark.
        load: the machine's load average just before, per core: timings taken beside other work say so.
        git: the commit; `-dirty` when a file other than a result was changed.
    """

    name: str = ""
    mode: str = ""
    seconds: float = 0.0
    device: str = ""
    load: float = 0.0
    versions: dict[str, str] | None = None
    git: str | None = None
    time: str = ""


@dataclass(frozen=True)
class Settings:
    mode: str
    data_dir: Path
    seed: int = 0
    generator: Path | None = None

    @property
    def quick(self) -> bool:
        return self.mode == "quick"


def main(name: str, run: Callable[[Settings], Result], about: str | None, *, generator: bool = False) -> None:
    """Parses the options, runs, writes `results/<name>[-gpu].json` and prints the claims.

    Args:
        generator: the benchmark trains a generator first, in whose place --generator gives one.
    """
    asked = parser(name, about)
    if generator:
        asked.add_argument("--generator", type=Path, metavar="RUN", help="a trained run (default: train it)")
    options = asked.parse_args()
    started, load = time.perf_counter(), os.getloadavg()[0] / (os.cpu_count() or 1)
    given = options.generator if generator else None
    result = run(Settings(options.mode, options.data_dir, options.seed, given))
    document = describe(name, options.mode, result, time.perf_counter() - started, load)
    suffix = "" if options.mode == "quick" else f"-{options.mode}"
    path = options.out or RESULTS / f"{name}{suffix}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(document))
    for claim in result.claims:
        verdict = "holds" if claim.holds else "FAILS"
        print(f"{verdict}  {claim.claim}: {claim.measured} (against {claim.baseline})")
    print(json.dumps({"result": str(path), "seconds": document.seconds}))


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog=f"bench_{name}.py", description=about)
    mode = options.add_mutually_exclusive_group(required=True)
    mode.add_argument(
        "--quick", action="store_const", dest="mode", const="quick", help="minutes on two CPU cores"
    )
    mode.add_argument(
        "--gpu", action="store_const", dest="mode", const="gpu", help="under 25 minutes on one H100"
    )
    options.add_argument(
        "--data-dir", type=Path, default=Path(".data"), help="folder with MNIST's (and CIFAR-10's) files"
    )
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, help="where the JSON goes (default: benchmarks/results)")
    return options


def describe(name: str, mode: str, result: Result, seconds: float, load: float) -> Document:
    """The result with its provenance."""
    machine = describe_machine()
    return Document(
        **{field: getattr(result, field) for field in Result.__dataclass_fields__},
        name=name,
        mode=mode,
        seconds=round(seconds, 1),
        device=device_name(),
        load=round(load, 2),
        versions=machine["versions"] | {"gentool": machine["gentool"], "python": machine["python"]},
        git=revision(),
        time=machine["time"],
    )


def revision() -> str | None:
    """The checkout's commit, `-dirty` where files were changed other than results.

    One benchmark's result must not spoil the provenance of the next.
    """
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", ".", ":!benchmarks/results", ":!docs/claims.md"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("-dirty" if changed.strip() else "")


def say(line: str) -> None:
    """Progress, for whoever waits."""
    print(line, file=sys.stderr, flush=True)


def device_name() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


class Ratio(NamedTuple):
    """Medians of alternating runs, and of the ratios ours/theirs pair by pair, with the ratios' range."""

    ours: float
    theirs: float
    ratio: float
    low: float
    high: float


def paired_ratio(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> Ratio:
    """Runs both by turns, after one run of each to warm up."""
    ours(), theirs()
    return ratio_of([(ours(), theirs()) for _ in range(rounds)])


def ratio_of(pairs: Sequence[tuple[float, float]]) -> Ratio:
    ratios = [a / b for a, b in pairs]
    ours, theirs = (statistics.median(side) for side in zip(*pairs))
    return Ratio(ours, theirs, statistics.median(ratios), min(ratios), max(ratios))


def synchronize() -> None:
    """Waits for the GPU's queue, where there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call, the GPU's queue included."""
    synchronize()
    started = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - started


def child_cpu_seconds(command: Sequence[str]) -> float:
    """User and system CPU seconds of one child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
