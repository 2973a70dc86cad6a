"""An attack on the noisy sum that every private step is: what it proves lies under the stated epsilon, and near it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit import CONFIDENCE, lower_bound
from common import Claim, Result, Settings, child_cpu_seconds, main, paired_ratio, say, seconds

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 22
"""Numbers drawn at once."""


@dataclass(frozen=True)
class Mechanism:
    """Poisson-sampled Gaussian sums with their epsilon by PLD (dp-accounting 0.6, interval 1e-4), which is tight."""

    name: str
    noise: float
    rate: float
    steps: int
    delta: float
    pld: float


MECHANISMS = (
    Mechanism("one Gaussian release", 1.0, 1.0, 1, 1e-5, 4.3772),
    Mechanism("300 steps at rate 0.1", 2.0, 0.1, 300, 1e-3, 2.9255),
    Mechanism("560 steps at rate 64/1797", 1.2, 64 / 1797, 560, 1e-4, 3.3371),
)


def log_ratios(m: Mechanism, present: bool, trials: int, seed: int, noise: float | None = None) -> Tensor:
    """(trials,) log-likelihood ratios, with over without, of all that one training releases.

    A step publishes the sum of the sampled records plus noise. The others are zero, the worst case for the one that
    the attacker looks for, whose value is the sensitivity 1. The attacker knows everything but whether it is there.
    `noise`: what is really added, where that differs from what is stated.
    """
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator(device).manual_seed(2 * seed + present)
    rows, parts = max(1, CHUNK // m.steps), []
    for start in range(0, trials, rows):
        shape = (min(rows, trials - start), m.steps)
        z = torch.randn(shape, generator=generator, device=device) * (noise or m.noise)
        if present:
            z += torch.rand(shape, generator=generator, device=device) < m.rate
        gain = torch.expm1((2 * z - 1) / (2 * m.noise**2))
        parts.append(torch.log1p(m.rate * gain).sum(1))
    return torch.cat(parts).double().cpu()


def audit(m: Mechanism, trials: int, seed: int, noise: float | None = None) -> float:
    """The lower bound of epsilon that the attack proves."""
    with_it, without = (log_ratios(m, present, trials, seed, noise) for present in (True, False))
    return lower_bound(with_it, without, m.delta)


def rdp(m: Mechanism) -> float:
    from gentool.privacy.mechanisms import Phase, SampledGaussian
    from gentool.privacy.rdp import RDP

    return RDP().epsilon([Phase(SampledGaussian(m.noise, m.rate), m.steps)], m.delta).epsilon


def audited(trials: int, seed: int) -> tuple[dict[str, Any], list[Claim]]:
    figures: dict[str, Any] = {"trials": trials, "confidence": CONFIDENCE}
    under, near = [], []
    for m in MECHANISMS:
        lower, stated = audit(m, trials, seed), rdp(m)
        say(f"{m.name}: proved {lower:.4g}, stated {stated:.4g}, pld {m.pld:.4g}")
        figures[m.name] = {"proved": lower, "rdp": stated, "pld": m.pld, "delta": m.delta}
        under.append((lower <= stated, f"{lower:.3g} of {stated:.3g}"))
        near.append((lower >= m.pld / 2, f"{lower / m.pld:.2f}"))
    m = MECHANISMS[1]
    halved = audit(m, trials, seed + 1, noise=m.noise / 2)
    figures["half the stated noise"] = {"proved": halved, "rdp": rdp(m)}
    names = ", ".join(m.name for m in MECHANISMS)
    many = f"{trials:,} trainings with and {trials:,} without the record; {names}"
    return figures, [
        Claim(
            "no attack on the mechanism proves more than the epsilon that is stated",
            "",
            "; ".join(text for _, text in under),
            f"gentool's RDP accountant; {many}",
            all(holds for holds, _ in under),
        ),
        Claim(
            "and the best one proves at least half of the tight epsilon",
            "",
            "; ".join(text for _, text in near),
            "of PLD's epsilon by dp-accounting",
            all(holds for holds, _ in near),
        ),
        Claim(
            "the attack would notice a factor of 2 in the noise: with half of it, more is proved than stated",
            "",
            f"{halved:.3g} of {rdp(m):.3g}",
            f"the same attack on {m.name} with the stated noise",
            halved > rdp(m),
        ),
    ]


def timed(rounds: int) -> tuple[dict[str, float], list[Claim]]:
    """Wall time of one epsilon by the command line, from settings and from the ledger of a training."""
    from gentool.privacy.ledger import Ledger
    from gentool.privacy.plan import plan
    from gentool.recipes.schema import Privacy

    gentool = [sys.executable, "-m", "gentool", "privacy-account"]
    settings = ["--noise-multiplier=1.1", "--sample-rate=256/60000", "--steps=14063", "--delta=1e-5"]

    def run(command: list[str]) -> float:
        return seconds(lambda: subprocess.run(command, check=True, capture_output=True))

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "recipe.yaml").write_text("family: edm\n")
        made = plan(Privacy(epsilon=10.0, sample_rate="1/15"), 4000, 4500, 60000)
        ledger = Ledger.start(Path(folder) / "ledger.jsonl")
        ledger.adopt(made)
        for step in range(made.steps):
            ledger.cover(made.release, step, made.steps)
        imported = [sys.executable, "-c", "import opacus.accountants"]
        found = paired_ratio(lambda: run([*gentool, *settings]), lambda: run(imported), rounds)
        of_run = statistics.median(run([*gentool, folder]) for _ in range(rounds))
        cpu = statistics.median(child_cpu_seconds([*gentool, *settings]) for _ in range(rounds))
    figures = {
        "settings_seconds": found.ours,
        "settings_cpu_seconds": cpu,
        "run_seconds": of_run,
        "import_opacus_seconds": found.theirs,
    }
    return figures, [
        Claim(
            "one epsilon by the command line takes less than 0.5 s of wall time",
            "",
            f"{found.ours:.2f} s of settings ({cpu:.2f} s of CPU), {of_run:.2f} s of a run of 4,500 steps",
            f"`import opacus.accountants`, which computes nothing yet: {found.theirs:.2f} s",
            max(found.ours, of_run) < 0.5,
            "the machine was shared with other work: see its load, and the CPU time",
        )
    ]


def run(settings: Settings) -> Result:
    trials, rounds = (1_000_000, 9) if settings.quick else (20_000_000, 15)
    figures, claims = audited(trials, settings.seed)
    times, more = timed(rounds)
    return Result(
        figures=figures | times,
        claims=[*claims, *more],
        seeds=(settings.seed, settings.seed + 1),
        scale=f"{trials:,} trials a world, lower bounds at {CONFIDENCE:.0%} confidence (Clopper and Pearson); "
        f"medians of {rounds} processes",
    )


if __name__ == "__main__":
    main("privacy_audit", run, __doc__)
