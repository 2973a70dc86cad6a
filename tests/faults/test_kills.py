"""kill -9 at any moment: the run goes on from its newest good state, and no private step goes uncounted."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from gentool.privacy.account import account_of
from gentool.privacy.ledger import Ledger
from gentool.privacy.mechanisms import Phase
from tests.faults.bench import KILLED, PRIVATE, TINY, Bench, accounted
from tests.faults.child import Fault
from tests.faults.table import Table


def kill_at_random(
    bench: Bench, run: Path, chance: random.Random, recipe: tuple[str, ...] = TINY, taken: Path | None = None
) -> str:
    """Starts the run and kills it: at a disk operation, or at a moment. Says what it was killed in."""
    if chance.random() < 0.6:
        number = chance.randint(1, len(bench.operations))
        done = bench.train(run, recipe, Fault(kill_at=number, taken=taken))
        assert done.code in (KILLED, 0), done.text  # a life that goes on has fewer operations left
        return bench.operations[number - 1] if done.code == KILLED else "nothing"
    arguments = ("train", *recipe, "--run-dir", run, "--resume", "auto")
    process, log = bench.start(*arguments, fault=Fault(taken=taken))
    process.join(chance.uniform(0, bench.seconds))
    process.kill()
    return "a moment" if bench.end(process, log).code == KILLED else "nothing"


def check_kills(bench: Bench, folder: Path, times: int, seed: int) -> dict[str, int]:
    chance, found = random.Random(seed), {}
    for number in range(times):
        run = folder / f"run{number}"
        where = kill_at_random(bench, run, chance)
        found[where] = found.get(where, 0) + 1
        bench.ends_like_whole(run)
    return found


@pytest.mark.slow
def test_five_kills(bench: Bench, tmp_path: Path) -> None:
    check_kills(bench, tmp_path, 5, seed=1)


@pytest.mark.faults
def test_fifty_kills(bench: Bench, tmp_path: Path, table: Table) -> None:
    found = check_kills(bench, tmp_path, 50, seed=0)
    assert found["checkpoint"] >= 5, found
    table.tell("kill", f"same weights every time; {found['checkpoint']} were inside a checkpoint's write", 50)


@pytest.mark.faults
def test_every_life_killed(bench: Bench, run: Path, table: Table) -> None:
    """Kills at the operation after the first new checkpoint, so that each life gets a little further."""
    lives = 0
    after = [i for i, name in enumerate(bench.operations, 1) if name == "checkpoint"][-1] // 4
    while bench.train(run, fault=Fault(kill_at=after)).code == KILLED:
        lives += 1
        assert lives < 50, "no life gets further than the one before"
    bench.assert_same(run)
    assert lives >= 3
    table.tell("kill-again", "same weights", lives)


@pytest.mark.faults
def test_private_steps_are_all_counted(bench: Bench, tmp_path: Path, table: Table) -> None:
    """The ledger states at least the steps whose gradients were computed, whenever the process is killed."""
    chance, times, most = random.Random(0), 15, 0
    for number in range(times):
        run, taken = tmp_path / f"run{number}", tmp_path / f"taken{number}"
        kill_at_random(bench, run, chance, PRIVATE, taken)
        steps = taken.read_text().split() if taken.exists() else []
        if steps:
            assert accounted(run)[0] >= len(steps)
        done = bench.train(run, PRIVATE, Fault(taken=taken))
        assert done.code == 0, done.text
        steps = taken.read_text().split()
        assert set(map(int, steps)) == set(range(20))
        count, epsilon = accounted(run)
        assert count >= len(steps)
        most = max(most, count)
        assert epsilon >= alone(run, len(steps))
    table.tell(
        "kill-private",
        "trained to the end; the ledger states every step taken, also those that a killed life had taken already "
        f"(at most {most} for 20)",
        times,
    )


def alone(run: Path, steps: int) -> float:
    """Epsilon of so many steps under the run's plan."""
    ledger = Ledger.open(run / "ledger.jsonl")
    assert ledger.plan is not None
    (phase, *_) = account_of(ledger, ledger.plan).phases
    spent = ledger.plan.judge.epsilon([Phase(phase.mechanism, steps)], ledger.plan.delta)
    return float(spent.epsilon)
