"""trainer.strategy=fsdp: shards on each of two processes over gloo, and what ddp makes of the same recipe."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gentool.privacy.ledger import Ledger
from gentool.privacy.mechanisms import Phase, SampledGaussian
from gentool.runs import checkpoints
from gentool.runs.weights import load_weights
from gentool.tasks.sample import sample
from gentool.tasks.training.dryrun import dry_run
from gentool.training import sharding
from tests.tasks.runs import TINY, Ended, environment, gentool
from tests.tasks.training.sharded_runs import BLOCK, RECIPE, STOP_AT

ROOT = Path(__file__).parents[3]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
"""Of weights: shards take the same sums, and a vectorised optimiser rounds them by where they lie."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all trainings of `sharded_runs`."""
    folder = tmp_path_factory.mktemp("sharded")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [sys.executable, "-m", "tests.tasks.training.sharded_runs"]
    both = [
        subprocess.Popen(
            [*words, str(rank), port, str(folder)],
            env=environment(),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in both:
        _, said = process.communicate(timeout=280)
        assert process.returncode == 0, said
    return folder


def test_two_processes_train_privately_with_one_ledger_and_the_same_weights(runs: Path) -> None:
    """Not by ddp, which averages nothing here: each process takes the step that both came to, after a stop too."""
    told = [json.loads((runs / f"{rank}.json").read_text())["private weights"] for rank in range(2)]
    assert told[0] == told[1]
    assert len(set(told[0])) == 4
    ledger = Ledger.open(runs / "private" / "ledger.jsonl")
    assert ledger.phases() == (Phase(SampledGaussian(1.5, 8 / 40), 4),)
    assert ledger.unsettled == 0
    assert len(ledger.plans) == 1


def state_of(run: Path) -> dict[str, Any]:
    found, bad = checkpoints.newest(run / "checkpoints")
    assert found is not None
    assert not bad
    return found


def moments(run: Path, step: int) -> torch.Tensor:
    """The mean gradients that Adam keeps, one after another."""
    state = checkpoints.load(run / "checkpoints" / f"step-{step:08d}.ckpt")["optimizers"][0]["state"]
    return torch.cat([of["exp_avg"].flatten() for of in state.values()])


def log_of(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in ("step", "loss", "lr")} for row in rows]


def assert_states(ours: Any, theirs: Any, **tolerance: float) -> None:
    """The same tree of names, numbers and tensors: one checkpoint can stand for the other."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_states(ours[key], theirs[key], **tolerance)
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_states(a, b, **tolerance)
    elif isinstance(theirs, torch.Tensor):
        torch.testing.assert_close(ours, theirs, **tolerance)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=1e-6)
    else:
        assert ours == theirs


def assert_same(run: Path, other: Path, **tolerance: float) -> None:
    """model.safetensors, log, weights, moments and average."""
    ours, theirs = (load_weights(path / "model.safetensors")[0] for path in (run, other))
    assert_states(ours, theirs, **tolerance)
    assert_states(state_of(run), state_of(other), **tolerance)
    for a, b in zip(log_of(run), log_of(other), strict=True):
        assert a == pytest.approx(b, rel=1e-6)


def test_shards_learn_what_whole_weights_learn(runs: Path) -> None:
    """Files of the same names and shapes, weights and log equal to rounding."""
    assert_same(runs / "fsdp", runs / "ddp", **CLOSE)


def test_a_resumed_run_ends_as_one_that_was_not_stopped(runs: Path) -> None:
    """Bit for bit: weights, Adam's moments, their count of steps, the average, the running loss."""
    assert [row["step"] for row in log_of(runs / "stopped")] == [2, 4]
    assert_same(runs / "stopped", runs / "fsdp", rtol=0, atol=0)
    assert len(json.loads((runs / "stopped" / "provenance.json").read_text())["lives"]) == 2


@pytest.mark.parametrize("name", ["fsdp-ddp", "ddp-fsdp"])
def test_a_life_may_have_another_strategy(name: str, runs: Path) -> None:
    """A checkpoint holds whole tensors, by whichever strategy it was written."""
    lives = json.loads((runs / name / "provenance.json").read_text())["lives"]
    assert [life["from_step"] for life in lives] == [0, STOP_AT + 1]
    assert_same(runs / name, runs / "ddp", **CLOSE)


def test_clipping_sees_the_norm_over_all_shards_and_batches_add_up(runs: Path) -> None:
    assert_same(runs / "clipped-fsdp", runs / "clipped-ddp", **CLOSE)
    clipped, free = (moments(runs / name, step=4).norm() for name in ("clipped-fsdp", "fsdp"))
    assert clipped < free / 4


def test_bfloat16_is_that_of_whole_weights(runs: Path) -> None:
    """Blocks are gathered in float32 and rounded by autocast, as whole weights are: closer than rounding itself."""
    ours, theirs, plain = (moments(runs / name, step=2) for name in ("bf16-fsdp", "bf16-ddp", "fsdp"))
    rounding = float((theirs - plain).norm() / plain.norm())
    assert 5e-4 < rounding < 0.02
    assert float((ours - theirs).norm() / plain.norm()) < rounding / 2


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_holds_half(rank: int, runs: Path) -> None:
    """Of weights, moments and average, with nothing whole behind them; one channel cannot be cut in two."""
    found = json.loads((runs / f"{rank}.json").read_text())
    for what in ("weights", "moments", "average"):
        assert found[what] == pytest.approx(found["whole"] / 2, rel=0.05), what


def test_a_dry_run_tells_what_is_sent(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the padding of tensors that do not divide evenly."""
    monkeypatch.setattr(sharding, "BLOCK", BLOCK)
    told = dry_run(RECIPE[0], [*RECIPE[1:], "trainer.strategy=fsdp"]).communication_bytes
    found = json.loads((runs / "0.json").read_text())
    assert found["sent"] == pytest.approx(told, rel=0.02)
    assert (
        told > 1.25 * found["whole"]
    )  # most weights are gathered twice and reduced once, half of them each time


def test_a_weight_that_is_infinite_in_one_shard_stops_all(runs: Path) -> None:
    for rank in range(2):
        found = json.loads((runs / f"{rank}.json").read_text())
        assert "NaN or infinite after step 2" in found["spoiled"]
    assert checkpoints.newest(runs / "spoiled" / "checkpoints") == (None, [])


def test_its_run_is_sampled_as_any_other(runs: Path, tmp_path: Path) -> None:
    done = sample(runs / "fsdp", count=4, out=tmp_path / "fsdp.npz")
    assert done.count == 4
    sample(runs / "ddp", count=4, out=tmp_path / "ddp.npz")
    ours, theirs = (np.load(tmp_path / f"{name}.npz")["arr_0"].astype(int) for name in ("fsdp", "ddp"))
    assert np.abs(ours - theirs).max() <= 1
    assert ours.std() > 1


def test_the_command_starts_the_processes_and_blocks_change_nothing(runs: Path, tmp_path: Path) -> None:
    """By Lightning's own launcher, with no block of the tiny network large enough to be gathered by itself."""
    run = tmp_path / "run"
    done = gentool("train", *RECIPE, "trainer.strategy=fsdp", "--run-dir", run, "-q")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(run)]
    assert_same(run, runs / "fsdp", **CLOSE)


# --- before training ---


def test_dry_run_of_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred devices hold a hundredth each, and whole blocks while they compute."""
    monkeypatch.setattr(sharding, "BLOCK", 1000)
    settings = [*TINY[1:], "trainer.devices=100", "data.batch_size=100"]
    whole = dry_run(TINY[0], [*settings, "trainer.strategy=ddp"])
    cut = dry_run(TINY[0], [*settings, "trainer.strategy=fsdp"])
    weights = 4 * whole.parameters["total"]
    assert whole.memory_bytes - cut.memory_bytes > 0.9 * 5 * weights - 2 * weights
    assert 1 < cut.communication_bytes / whole.communication_bytes < 1.5
    twice = dry_run(TINY[0], [*settings, "trainer.strategy=fsdp", "trainer.accumulate=2"])
    assert twice.communication_bytes == pytest.approx(2 * cut.communication_bytes, abs=2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("trainer.precision=16-mixed",), ("trainer.precision", "32-true or bf16-mixed, not 16-mixed")),
        (("trainer.precision=64-true",), ("trainer.precision", "32-true or bf16-mixed, not 64-true")),
        (("privacy={epsilon: 10}",), ("trainer.strategy", "a record's norm")),
    ],
)
def test_what_does_not_go_with_shards_is_refused_at_its_key(
    changes: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, call: Callable[..., Ended]
) -> None:
    run = tmp_path / "run"
    call("train", *TINY, "trainer.strategy=fsdp", *changes, "--run-dir", run).refused(2, *words)
    assert not run.exists()


@pytest.mark.parametrize("recipe", ["a-vit/digits-small", "sap/shapes-small", "lace/digits-small"])
def test_a_family_that_needs_whole_weights_says_so(recipe: str, call: Callable[..., Ended]) -> None:
    call("train", recipe, "trainer.strategy=fsdp", "--dry-run").refused(
        2, "trainer.strategy", "the family " + recipe.split("/")[0], "use ddp"
    )
