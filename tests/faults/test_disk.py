"""Disks that are full, small, read-only or gone: an error that says so, and nothing that was there is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.bench import PRIVATE, TINY, Bench, accounted, until
from tests.faults.child import Fault
from tests.faults.table import Table

pytestmark = pytest.mark.faults


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(disk: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(disk)], check=True, capture_output=True)


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves so many bytes free."""
    filler = disk / "filler"
    free = shutil.disk_usage(disk).free
    filler.write_bytes(b"\0" * (free - leave))
    return filler


def test_full_disk(bench: Bench, disk: Path, table: Table) -> None:
    """Room for two checkpoints and a bit: a later one does not fit while the two before it are kept."""
    run = disk / "run"
    checkpoint = max(p.stat().st_size for p in (bench.whole / "checkpoints").glob("*.ckpt"))
    filler = fill(disk, int(2.6 * checkpoint))
    bench.train(run).refused(1, "no space left on the disk")
    assert list((run / "checkpoints").glob("*.json")), "no checkpoint was left"
    before = sorted(p.name for p in (run / "checkpoints").iterdir())
    bench.train(run)  # as often as one likes
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == before
    filler.unlink()
    done = bench.ends_like_whole(run)
    assert "going on from step" in done.text
    table.tell(
        "full-disk",
        "exit code 1 with the reason, the checkpoints before it kept; with room again, same weights",
    )


def test_file_size(bench: Bench, run: Path, table: Table) -> None:
    checkpoint = min(p.stat().st_size for p in (bench.whole / "checkpoints").glob("*.ckpt"))
    bench.train(run, fault=Fault(largest_file=checkpoint // 2)).refused(1, "larger than allowed")
    bench.ends_like_whole(run)
    table.tell(
        "file-size", "exit code 1 with the reason, nothing half-written left; without the limit, same weights"
    )


def test_full_ledger(bench: Bench, disk: Path, tmp_path: Path, table: Table) -> None:
    """Room for two checkpoints and less than the run's ledger: what cannot be accounted for is not computed."""
    run, taken = disk / "run", tmp_path / "taken"
    filler = fill(disk, 0)
    ended = bench.train(run, PRIVATE, Fault(taken=taken))
    assert ended.code in (1, 2), ended.text
    assert "no space left on the disk" in ended.text
    assert not taken.exists() or taken.read_text() == ""
    filler.unlink()
    done = bench.train(run, PRIVATE, Fault(taken=taken))
    assert done.code == 0, done.text
    assert accounted(run)[0] == len(taken.read_text().split()) == 20
    table.tell(
        "full-ledger",
        "refused with the reason before a step is taken; with room again, every step counted once",
    )


def test_read_only(bench: Bench, disk: Path, table: Table) -> None:
    run = disk / "run"
    shutil.copytree(bench.whole, run)
    for path in run.glob("checkpoints/step-00000030.*"):  # so that there is something left to do
        path.unlink()
    remount(disk, "ro")
    bench.train(run).refused(2, "the file system is read-only")
    remount(disk, "rw")
    bench.ends_like_whole(run)
    table.tell(
        "read-only", "exit code 2 with the reason, before anything is computed; made writable, same weights"
    )


def test_removed(bench: Bench, run: Path, table: Table) -> None:
    words = ("train", *TINY, "--run-dir", run, "--resume", "auto")
    process, log = bench.start(*words, fault=Fault(pause=0.1))
    until(lambda: bool(list(run.glob("checkpoints/*.json"))))
    run.rename(run.with_name("thrown away"))
    shutil.rmtree(run.with_name("thrown away"))
    ended = bench.end(process, log)
    assert ended.code == 1, ended.text
    assert "Traceback" not in ended.text
    assert "folder" in ended.text
    assert not run.exists(), "half a run was made anew"
    bench.ends_like_whole(run)
    table.tell(
        "removed", "exit code 1 with the reason, no half of a run in its place; started again, same weights"
    )
