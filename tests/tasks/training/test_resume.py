"""A run that is killed, stopped or interrupted ends with the weights and the log of one that was not."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from gentool.runs import checkpoints
from tests.tasks.runs import TINY, gentool, start


def columns(path: Path) -> list[list[str]]:
    """metrics.csv without the column that tells time."""
    return [line.split(",")[:3] for line in (path / "metrics.csv").read_text().splitlines()]


def assert_same(run: Path, whole: Path) -> None:
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert columns(run) == columns(whole)
    ours, theirs = (checkpoints.newest(path / "checkpoints")[0] for path in (run, whole))
    assert ours is not None
    assert theirs is not None
    assert ours["step"] == theirs["step"] == 60
    for a, b in zip(
        ours["optimizers"][0]["state"].values(), theirs["optimizers"][0]["state"].values(), strict=True
    ):
        assert (a["exp_avg"] == b["exp_avg"]).all()


def wait_for(run: Path, least: int) -> None:
    """Until the run has a checkpoint of at least this step."""
    for _ in range(1200):
        found = sorted((run / "checkpoints").glob("step-*.json"))
        if found and int(found[-1].stem[5:]) >= least:
            return
        time.sleep(0.05)
    raise AssertionError("the run made no checkpoint in a minute")


SLOWED = ("trainer.max_steps=60", "trainer.checkpoint_every=1")
"""A checkpoint a step makes a tiny run slow enough to be hit in the middle of it."""


@pytest.mark.parametrize("after", [3, 17, pytest.param(31, marks=pytest.mark.slow)])
def test_killed_run_resumes_bit_for_bit(after: int, tmp_path: Path, whole_run: Path) -> None:
    run = tmp_path / "run"
    process = start("train", *TINY, *SLOWED, "--run-dir", run, "-q")
    wait_for(run, after)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    state, _ = checkpoints.newest(run / "checkpoints")
    assert state is not None
    assert after <= state["step"] < 60
    done = gentool("train", *TINY, "--run-dir", run, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert f"going on from step {state['step']} of 60" in done.stderr
    assert_same(run, whole_run)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 75), pytest.param(signal.SIGUSR1, 75, marks=pytest.mark.slow), (signal.SIGINT, 130)],
)
def test_signal_saves_at_the_step_and_exits(number: int, code: int, tmp_path: Path, whole_run: Path) -> None:
    run = tmp_path / "run"
    process = start("train", *TINY, *SLOWED, "--run-dir", run, "--json")
    wait_for(run, 5)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert json.loads(out)["error"]["kind"] == ("interrupted" if code == 130 else "preempted")
    assert gentool("train", *TINY, "--run-dir", run, "--resume", "auto").returncode == 0
    assert_same(run, whole_run)


def test_complete_run_is_left_alone(tmp_path: Path, whole_run: Path) -> None:
    run = shutil.copytree(whole_run, tmp_path / "run")
    before = (run / "model.safetensors").read_bytes()
    done = gentool("train", *TINY, "--run-dir", run, "--resume", "auto", "--json")
    assert json.loads(done.stdout)["steps"] == 60
    assert (run / "model.safetensors").read_bytes() == before


def test_more_steps_can_be_asked_for(tmp_path: Path, whole_run: Path) -> None:
    run = shutil.copytree(whole_run, tmp_path / "run")
    done = gentool("train", *TINY, "trainer.max_steps=70", "--run-dir", run, "--resume", "auto", "--json")
    assert json.loads(done.stdout)["steps"] == 70


def test_damaged_checkpoint_is_passed_over(tmp_path: Path, whole_run: Path) -> None:
    run = shutil.copytree(whole_run, tmp_path / "run")
    newest = run / "checkpoints" / "step-00000060.ckpt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    done = gentool("train", *TINY, "--run-dir", run, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert "SHA-256" in done.stderr
    assert "going on from step 50 of 60" in done.stderr
    assert_same(run, whole_run)


def test_no_good_checkpoint_is_corrupt_not_a_fresh_start(tmp_path: Path, whole_run: Path) -> None:
    run = shutil.copytree(whole_run, tmp_path / "run")
    for path in (run / "checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:1000])
    done = gentool("train", *TINY, "--run-dir", run, "--resume", "auto")
    assert done.returncode == 4
    assert "no good checkpoint is left" in done.stderr


def test_pickle_in_a_checkpoint_is_never_executed(tmp_path: Path, whole_run: Path) -> None:
    import hashlib
    import pickle

    run = shutil.copytree(whole_run, tmp_path / "run")
    marker = tmp_path / "executed"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (marker,))  # type: ignore[return-value]

    data = pickle.dumps(Payload())
    for path in (run / "checkpoints").glob("*.ckpt"):
        path.write_bytes(data)
        path.with_suffix(".json").write_text(
            json.dumps({"step": 60, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)})
        )
    assert gentool("train", *TINY, "--run-dir", run, "--resume", "auto").returncode == 4
    assert not marker.exists()


def test_other_recipe_is_refused_with_the_difference(whole_run: Path) -> None:
    done = gentool(
        "train", *TINY, "data.batch_size=16", "optimizer.lr=0.5", "--run-dir", whole_run, "--resume", "auto"
    )
    assert done.returncode == 2
    assert "data.batch_size: 32 -> 16" in done.stderr
    assert "optimizer.lr: 0.001 -> 0.5" in done.stderr


def test_folder_of_a_run_is_not_written_over(whole_run: Path) -> None:
    done = gentool("train", *TINY, "--run-dir", whole_run)
    assert done.returncode == 2
    assert "--resume auto" in done.stderr


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start("train", *TINY, *SLOWED, "trainer.max_steps=100000", "--run-dir", run, "-q")
    try:
        wait_for(run, 1)
        second = gentool(
            "train", *TINY, *SLOWED, "trainer.max_steps=100000", "--run-dir", run, "--resume", "auto"
        )
        assert second.returncode == 2
        assert "another process is training" in second.stderr
    finally:
        process.kill()
        process.wait()


def test_not_finite_loss_names_the_step_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = gentool("train", *TINY, "optimizer.lr=1e30", "optimizer.warmup=0", "--run-dir", run)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    told = re.search(
        r"the loss became \S+ in step (\d+) \(training batch \d+ of the examples ([\d, ]+)", done.stderr
    )
    assert told is not None
    assert all(0 <= int(row) < 1437 for row in told[2].split(","))
