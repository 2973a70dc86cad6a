"""Files that changed on the disk, two runs in one folder, and a clock that lies."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from gentool.runs import checkpoints
from tests.faults.bench import PRIVATE, TINY, Bench, until
from tests.faults.child import Fault
from tests.faults.table import Table

pytestmark = pytest.mark.faults


@pytest.fixture
def stopped(bench: Bench, run: Path) -> Path:
    """A run with two checkpoints and less to do than it takes: prolonging the run that was left alone is no damage."""
    shutil.copytree(bench.whole, run)
    return run


def newest(run: Path) -> Path:
    return checkpoints.complete(run / "checkpoints")[-1]


def test_truncated(bench: Bench, tmp_path: Path, table: Table) -> None:
    size = newest(bench.whole).stat().st_size
    lengths = [0, 1, 100, size // 2, size - 1]
    for number, length in enumerate(lengths):
        run = shutil.copytree(bench.whole, tmp_path / f"run{number}")
        path = newest(run)
        path.write_bytes(path.read_bytes()[:length])
        done = bench.ends_like_whole(run)
        assert "SHA-256" in done.text
        assert "going on from step 25 of 30" in done.text
    table.tell(
        "truncated", "passed over with a warning; on from the one before it, same weights", len(lengths)
    )


def test_flipped(bench: Bench, tmp_path: Path, table: Table) -> None:
    chance, times = random.Random(0), 5
    for number in range(times):
        run = shutil.copytree(bench.whole, tmp_path / f"run{number}")
        path = newest(run)
        data = bytearray(path.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        done = bench.ends_like_whole(run)
        assert "going on from step 25 of 30" in done.text
    table.tell("flipped", "passed over with a warning; on from the one before it, same weights", times)


def test_all_damaged(bench: Bench, stopped: Path, table: Table) -> None:
    for path in checkpoints.complete(stopped / "checkpoints"):
        path.write_bytes(path.read_bytes()[:-1])
    before = contents(stopped)
    bench.train(stopped).refused(4, "no good checkpoint is left", "step-00000030", "step-00000025")
    assert contents(stopped) == before
    table.tell("all-damaged", "exit code 4 with each file and its fault; nothing is touched, no fresh start")


def contents(run: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"
    }


@pytest.mark.parametrize("fault", ["gone", "empty", "other"])
def test_manifest(fault: str, bench: Bench, stopped: Path, table: Table) -> None:
    manifest = newest(stopped).with_suffix(".json")
    if fault == "gone":
        manifest.unlink()
    else:
        manifest.write_text(
            "" if fault == "empty" else json.dumps({"step": 30, "sha256": "0" * 64, "bytes": 1})
        )
    done = bench.ends_like_whole(stopped)
    assert "going on from step 25 of 30" in done.text
    table.tell("manifest", "the checkpoint is not used; on from the one before it, same weights")


def test_ledger(bench: Bench, tmp_path: Path, table: Table) -> None:
    whole = tmp_path / "whole"
    assert bench.train(whole, PRIVATE).code == 0
    more = (*PRIVATE, "trainer.max_steps=25")  # something left to do
    lines = (whole / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    changed = [lines[0], lines[1], lines[2].replace(b'"count":', b'"count": '), *lines[3:]]
    cut_back = lines[:5]  # whole lines, but fewer than the checkpoint knows of
    for number, kept in enumerate((changed, lines[:2] + lines[3:], cut_back, [])):
        run = shutil.copytree(whole, tmp_path / f"run{number}")
        (run / "ledger.jsonl").unlink()
        if kept:
            (run / "ledger.jsonl").write_bytes(b"".join(kept))
        before = contents(run)
        bench.train(run, more).refused(4, "ledger", "restore")
        assert contents(run) == before
    table.tell("ledger", "exit code 4: what was spent is not known, and no step is taken")


def test_two_runs(bench: Bench, run: Path, table: Table) -> None:
    words = ("train", *TINY, "--run-dir", run, "--resume", "auto")
    process, log = bench.start(*words, fault=Fault(pause=0.2))
    until(lambda: bool(list(run.glob("checkpoints/*.json"))))
    bench.train(run).refused(2, "another process is training")
    first = bench.end(process, log)
    assert first.code == 0, first.text
    bench.assert_same(run)
    table.tell("two-runs", "exit code 2 for the second; the first ends with the same weights")


def test_clock(bench: Bench, run: Path, table: Table) -> None:
    done = bench.train(run, fault=Fault(clock=3.15e7))
    assert done.code == 0, done.text
    bench.assert_same(run)
    table.tell("clock", "same weights: no decision hangs on the time of day")
