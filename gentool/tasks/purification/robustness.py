"""gentool purify --attack: how accurate a purified classifier stays under attack, told with what makes it doubtful."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gentool.attacks.campaign import Campaign, check_clean, victims
from gentool.attacks.forecast import Cost, forecast
from gentool.attacks.options import Attack
from gentool.attacks.records import Records
from gentool.attacks.summary import UPPER_BOUND, accuracies, gradients, warnings
from gentool.attacks.threat import Threat
from gentool.data.choice import shuffled
from gentool.diffusion.purify import Purifier
from gentool.errors import GentoolError, PreemptedError, RunInterrupted, UserError
from gentool.noise import mix
from gentool.runs.atomic import make_folder, write_json
from gentool.tasks.purification.examples import EXAMPLES, keep
from gentool.tasks.purification.target import Target, gradient_check, purified
from gentool.training.signals import StopFlag
from gentool.training.watching import Report, Say, unreported, unsaid

READ_CLEAN = 256
"""Pictures at least, where there are so many, that the bare classifier is seen to read: of a few that are attacked it
may misread all."""
TOGETHER = 32
"""Most pictures attacked together: what is between two records, and between two looks at the clock."""


@dataclass(frozen=True)
class Plan:
    """What is done to it.

    Attributes:
        count: pictures, a random choice of the target's; None is all. Those of a smaller count are among a larger's.
        draws: fresh draws by which a picture is judged.
        batch_size: most copies of pictures in one pass.
        seconds: no further pictures are begun after so long; None is no limit.
    """

    attack: Attack
    threat: Threat
    count: int | None = None
    draws: int = 10
    seed: int = 0
    batch_size: int = 256
    seconds: float | None = None


@dataclass(frozen=True)
class Robustness:
    """Figures of a campaign, and the records they come from."""

    folder: Path
    plan: Plan
    identity: Mapping[str, Any]
    pictures: list[dict[str, Any]]
    planned: int
    cost: Cost | None
    gradient_check: float | None
    seconds: float
    doubts: list[str]

    def document(self) -> dict[str, Any]:
        """What `gentool purify --attack --json` prints, and robustness.json holds."""
        plan, records = self.plan, self.pictures
        return {
            "path": str(self.folder),
            **self.identity,
            "attack": plan.attack.document(),
            "threat": {"norm": plan.threat.norm, "eps": plan.threat.eps},
            "images": len(records),
            "asked": self.planned,
            "draws": plan.draws,
            "seed": plan.seed,
            "accuracy": accuracies(records),
            "interval": "95 %, Wilson, over images",
            "gradients": {name: gradients(records, name) for name in records[0]["victims"]},
            "gradient_check": self.gradient_check,
            "forecast": None if self.cost is None else self.cost.document(self.planned),
            "seconds": self.seconds,
            "warnings": [*warnings(records, plan.attack, self.planned), *self.doubts],
            "note": UPPER_BOUND,
        }


def robustness(
    target: Target, plan: Plan, folder: Path, *, report: Report = unreported, say: Say = unsaid
) -> Robustness:
    """Attacks and judges pictures, bare, behind noise alone and behind the defence; goes on where `folder` left off.

    Args:
        folder: holds `records.jsonl` (a line a picture, on the disk as soon as it is known) and robustness.json.

    Raises:
        UserError: the classifier does not read these pictures; the defence has no gradient; the folder holds another
            campaign; the time allows no picture. PreemptedError, RunInterrupted: asked to stop, records kept.
    """
    started = time.perf_counter()
    if plan.draws < 1 or plan.batch_size < 1 or (plan.count is not None and plan.count < 1):
        raise UserError("--draws, --batch-size and -n must be at least 1")
    order = torch.from_numpy(shuffled(len(target.x), mix(plan.seed, "pictures")))
    if plan.count is not None and plan.count > len(order):
        raise UserError(f"-n {plan.count}: there are {len(order)} labelled pictures")
    chosen = order[: plan.count].tolist()
    known = order[: max(len(chosen), READ_CLEAN)]
    doubts = check_clean(target.logits, target.x[known], target.label[known], plan.batch_size)
    campaign = campaign_of(target, plan)
    error = gradient_check(target, plan.seed) if plan.attack.route in ("exact", "surrogate") else None
    if error is not None:
        say(f"gradient self-test: replay differs from plain back-propagation by {error:.1e} (relative)")
    make_folder(folder)
    header = {**target.identity, "purifier": target.purifier.describe(), "attack": plan.attack.document()}
    header |= {"norm": plan.threat.norm, "eps": plan.threat.eps, "draws": plan.draws, "seed": plan.seed}
    records = Records.open(folder / "records.jsonl", json.loads(json.dumps(header)))
    done = records.done()
    left = [i for i in chosen if i not in done]
    if len(left) < len(chosen):
        say(f"{len(chosen) - len(left)} of {len(chosen)} pictures are on record already: {folder}")
    cost, pace = None, 0.0
    if left:
        first = left[: _together(plan)]
        cost = forecast(campaign, target.x[first], target.label[first], first)
        pace = cost.seconds
        say(told(cost, len(left)))
    _go_on(campaign, target, plan, records, chosen, left, started, pace, report, say)
    wanted = set(chosen)
    pictures = [record for record in records.pictures if record["index"] in wanted]
    if not pictures:
        assert plan.seconds is not None
        raise UserError(f"the time budget of {plan.seconds:g} s allows no picture: one batch takes longer")
    result = Robustness(
        folder,
        plan,
        {**target.identity, "purifier": target.purifier.describe()},
        pictures,
        len(chosen),
        cost,
        error,
        time.perf_counter() - started,
        doubts,
    )
    write_json(folder / "robustness.json", result.document())
    return result


def _go_on(
    campaign: Campaign,
    target: Target,
    plan: Plan,
    records: Records,
    chosen: Sequence[int],
    left: Sequence[int],
    started: float,
    pace: float,
    report: Report,
    say: Say,
) -> None:
    """Attacks what is `left` of the chosen, a few together, `pace` seconds a picture, and records it."""
    together = _together(plan)
    examples, done = set(chosen[:EXAMPLES]), 0
    begun = time.perf_counter()
    with StopFlag() as stop:
        while done < len(left) and time_allows(plan, started, pace * min(together, len(left) - done), say):
            indices = left[done : done + together]
            x, label = target.x[indices], target.label[indices]
            try:
                found, attacked = campaign.run(x, label, indices)
            except torch.OutOfMemoryError:
                campaign, together = smaller(campaign, together, say)
                continue
            keep(examples, found, x, attacked, campaign)
            records.add(found)
            done += len(indices)
            pace = (time.perf_counter() - begun) / done
            report(len(chosen) - len(left) + done, len(chosen), {})
            if stop.signum is not None and done < len(left):
                end = RunInterrupted if stop.signum == signal.SIGINT else PreemptedError
                raise end(
                    "stopped; what was found is on record, and the same command goes on", str(records.path)
                )


def _together(plan: Plan) -> int:
    """Pictures attacked together: copies for the expectation first, within what fits in a pass."""
    return max(1, min(TOGETHER, plan.batch_size // plan.attack.eot))


def campaign_of(target: Target, plan: Plan) -> Campaign:
    """The attack on the target bare, behind noise and purified."""
    surrogate = None
    if plan.attack.route == "surrogate":
        surrogate = purified(replace(target.purifier, steps=plan.attack.surrogate_steps), target.logits)
    three = victims(
        plan.attack,
        target.logits,
        purified(target.purifier, target.logits),
        sigma=jump(target.purifier),
        surrogate=surrogate,
    )
    return Campaign(plan.attack, plan.threat, three, plan.draws, plan.seed, plan.batch_size)


def jump(purifier: Purifier) -> float:
    """The noise of the control, in units of [-1, 1] pixels: all that the purifier adds before it takes any away."""
    if purifier.method != "ld-sde":
        return purifier.sigma_star
    c = purifier.langevin
    return float(c.eta * (c.lam * c.time) ** 0.5)


def time_allows(plan: Plan, started: float, needed: float, say: Say) -> bool:
    """Whether a batch that takes so many seconds fits into the time. The attack itself is never cut: that would
    weaken it, while fewer pictures only widen the interval."""
    passed = time.perf_counter() - started
    fits = plan.seconds is None or passed + needed <= plan.seconds
    if not fits:
        say(
            f"the time budget ends the campaign after {passed:.0f} s: the next pictures would take {needed:.0f} s"
        )
    return fits


def smaller(campaign: Campaign, together: int, say: Say) -> tuple[Campaign, int]:
    """The campaign with half the copies in a pass; figures do not depend on it.

    Raises:
        GentoolError: a single copy does not fit.
    """
    if campaign.rows == 1:
        raise GentoolError("out of GPU memory at a single picture")
    torch.cuda.empty_cache()
    rows = campaign.rows // 2
    say(f"out of GPU memory: {rows} copies in a pass from here on")
    return replace(campaign, rows=rows), max(1, min(together, rows))


def told(cost: Cost, pictures: int) -> str:
    """The forecast in a line."""
    from_here = (
        f"forecast: {cost.network_calls * pictures:,} network calls, about {cost.seconds * pictures:.0f} s"
    )
    return (
        from_here
        if cost.attacks
        else f"{from_here} for judging alone: the toolbox's attack cannot be forecast"
    )


def default_folder(run: Path, identity: Mapping[str, Any], plan: Plan, purifier: Purifier) -> Path:
    """A folder in the run that tells campaigns apart: what was asked differently never meets an earlier one."""
    asked = [*sorted((k, str(v)) for k, v in identity.items()), purifier.describe(), plan.attack.document()]
    text = json.dumps([asked, plan.threat.norm, plan.threat.eps, plan.draws, plan.seed])
    return run / "robustness" / f"{plan.attack.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def rows_of(document: Mapping[str, Any]) -> Sequence[tuple[str, ...]]:
    """The accuracies as a table's rows: what is attacked, how it is judged, clean, under attack."""
    names = {"none": "no defence", "noise": "noise alone", "defence": "purified"}
    rules = {"mean": "mean of draws", "worst": "worst of N", "vote": "majority vote"}
    rows = []
    for name, stages in document["accuracy"].items():
        for rule, words in rules.items():
            if name == "none" and rule != "mean":
                continue  # it draws nothing: all three are the same
            cells = [_share(stages[stage][rule]) for stage in ("clean", "robust")]
            rows.append((names[name], "one answer" if name == "none" else words, *cells))
    return rows


def _share(found: Mapping[str, float]) -> str:
    return f"{100 * found['value']:.1f} % ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
