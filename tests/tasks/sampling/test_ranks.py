"""Processes that a launcher started together share the drawing, and write what one would have written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gentool.runs.samples import read_samples
from gentool.tasks.sampling.ranks import Ranks
from tests.tasks.runs import Call, environment

LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")


def torchrun(processes: int, *words: str | Path) -> subprocess.CompletedProcess[str]:
    launcher = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
        "-m",
        "gentool",
    ]
    return subprocess.run(
        [sys.executable, *launcher, *map(str, words)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=240,
    )


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Ranks(0, 1, 0)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Ranks(5, 8, 1)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "3"}, Ranks(3, 4, 3)),
        # the batch script of a job of four tasks is not one of them
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, Ranks(0, 1, 0)),
    ],
)
def test_the_launcher_tells_who_this_is(
    given: dict[str, str], expected: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert Ranks.here() == expected


def test_processes_are_not_started_twice(
    whole_run: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    call("sample", whole_run, "--devices", 2).refused(2, "--devices 2", "started 2 processes already")


def test_further_processes_judge_nothing(
    whole_run: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A samples file needs no drawing: all but rank 0 have nothing to do, and print nothing."""
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    ended = call("evaluate", Path(__file__))  # not even read
    assert (ended.code, ended.out) == (0, "")


@pytest.mark.slow
def test_two_processes_write_the_file_of_one(whole_run: Path, tmp_path: Path, call: Call) -> None:
    """Seven batches over two processes: the last round is one process's alone."""
    words = ("sample", whole_run, "-n", 70, "--batch-size", 10, "-o")
    assert call(*words, tmp_path / "one.npz").code == 0
    done = torchrun(2, *words, tmp_path / "two.npz", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["count"] == 70  # one document, from rank 0
    one, two = (read_samples(tmp_path / name) for name in ("one.npz", "two.npz"))
    np.testing.assert_array_equal(one.array, two.array)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert one.provenance["nfe"] == two.provenance["nfe"]


@pytest.mark.slow
def test_two_processes_evaluate_as_one(whole_run: Path, call: Call) -> None:
    words = ("evaluate", whole_run, "--features", "pixels", "--metric", "fid", "-n", 60, "--json")
    alone = call(*words)
    together = torchrun(2, *words)
    assert together.returncode == 0, together.stderr
    assert json.loads(together.stdout)["metrics"] == pytest.approx(alone.json["metrics"], rel=1e-12)
