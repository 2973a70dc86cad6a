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


def kill_at_random(bench: Bench, run: Path, chance: random.Random) -> str:
    """Starts the run and kills it: at a disk operation, or at a moment. Says what it was killed in."""
    if chance.random() < 0.6:
        number = chance.randint(1, len(bench.operations))
        assert bench.train(run, fault=Fault(kill_at=number)).code == KILLED
        return bench.operations[number - 1]
    process, log = bench.start("train", *TINY, "--run-dir", run, "--resume", "auto")
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
    """The ledger states at least the steps whose gradients were computed, whenever the process is killed.

    Steps that are taken again spend again, so that the budget may end the run before its last step.
    """
    chance, operations, short = random.Random(0), bench.private_operations, 0
    of_ledger = [i for i, name in enumerate(operations, 1) if name == "ledger"]
    moments = chance.sample(of_ledger, 8) + chance.sample(range(1, len(operations) + 1), 8)
    for moment in moments:
        run, taken = tmp_path / f"run{moment}", tmp_path / f"taken{moment}"
        assert bench.train(run, PRIVATE, Fault(kill_at=moment, taken=taken)).code == KILLED
        noted = taken.read_text().split()
        if noted:
            assert accounted(run)[0] >= len(noted)
        done = bench.train(run, PRIVATE, Fault(taken=taken))
        noted = taken.read_text().split()
        count, epsilon = accounted(run)
        assert count >= len(noted)
        assert alone(run, len(noted)) <= epsilon <= 8
        last = max(map(int, noted))
        if done.code == 3:  # killed so late that no step is left
            assert "would exceed epsilon 8" in done.text
        else:
            assert done.code == 0, done.text
            assert last == 19 or "one more would exceed epsilon 8" in done.text
        short += last < 19
    table.tell(
        "kill-private",
        "every step taken is in the ledger, those that were taken again twice; epsilon never above the budget "
        f"(which ended {short} of the runs a few steps early)",
        len(moments),
    )


def alone(run: Path, steps: int) -> float:
    """Epsilon of so many steps under the run's plan."""
    ledger = Ledger.open(run / "ledger.jsonl")
    assert ledger.plan is not None
    (phase, *_) = account_of(ledger, ledger.plan).phases
    spent = ledger.plan.judge.epsilon([Phase(phase.mechanism, steps)], ledger.plan.delta)
    return float(spent.epsilon)
