"""The scripts of `gentool slurm` on a real Slurm: pipelines, requeues, time limits, arrays, several processes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from gentool.runs.samples import read_samples
from tests.slurm.cluster import Cluster, running, unavailable
from tests.tasks.runs import TINY

pytestmark = pytest.mark.slurm

SMALL = (
    *TINY,
    "trainer.accelerator=cpu",
    "evaluate.metrics=[fid]",
    "evaluate.features=pixels",
    "evaluate.count=40",
)
PRIVATE = (
    "edm/digits-dp-small",
    "trainer.max_steps=40",
    "trainer.checkpoint_every=15",
    "trainer.accelerator=cpu",
    "model.network.width=16",
    "privacy.noise_multiplicity=1",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    reason = unavailable()
    if reason is not None:
        pytest.skip(f"no Slurm here: {reason}")
    with running(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="module")
def whole(cluster: Cluster) -> Path:
    """The run that no job interrupted: trained by the same command without Slurm."""
    cluster.shell(f"gentool train {shlex.join(SMALL)} --run-dir whole -q")
    return cluster.work / "whole"


def submit(cluster: Cluster, words: tuple[str, ...], options: str, pause: float = 0.0) -> list[str]:
    """The numbers of the jobs that the printed script makes."""
    shell = "bash" if "--then" in options else "sbatch --parsable"
    command = f"set -o pipefail; gentool slurm {shlex.join(words)} {options} | {shell}"
    return cluster.shell(command, SLOW=str(pause)).split()


def assert_same_weights(run: Path, other: Path) -> None:
    ours, theirs = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not np.array_equal(ours[name], theirs[name])] == []


def checkpointed(run: Path, step: int) -> bool:
    return any(int(p.stem.rpartition("-")[2]) >= step for p in run.glob("checkpoints/step-*.json"))


def requeue(cluster: Cluster, job: str) -> None:
    """Takes the job's node away, as a preemption does, and waits until it is queued again."""
    before = cluster.restarts(job)
    cluster.shell(f"scontrol requeue {job}")
    cluster.until(lambda: cluster.restarts(job) > before, "the requeue", 60)


def test_three_dependent_jobs_finish(cluster: Cluster, whole: Path) -> None:
    jobs = submit(cluster, SMALL, "--then sample,evaluate --time 10")
    assert len(jobs) == 3
    for job in jobs:
        cluster.wait(job, "COMPLETED")
    run = cluster.work / f"runs/quickstart/slurm-{jobs[0]}"
    assert_same_weights(run, whole)
    assert len(list(run.glob("samples/*.h5"))) == 2  # those of `sample`, and those that `evaluate` judged
    assert json.loads((run / "evaluation.json").read_text())["count"] == 40


def test_a_requeued_job_ends_with_the_weights_of_an_uninterrupted_one(cluster: Cluster, whole: Path) -> None:
    (job,) = submit(cluster, SMALL, "", pause=0.3)
    run = cluster.work / f"runs/quickstart/slurm-{job}"
    cluster.until(lambda: checkpointed(run, 10), "a checkpoint")
    requeue(cluster, job)
    cluster.wait(job, "COMPLETED")
    assert cluster.restarts(job) == 1
    lives = json.loads((run / "provenance.json").read_text())["lives"]
    assert [life["to_step"] for life in lives] == [lives[1]["from_step"], 60]
    assert_same_weights(run, whole)


def test_a_job_that_meets_its_time_limit_goes_on_in_the_queue(cluster: Cluster, whole: Path) -> None:
    """The signal comes up to half a minute early (Slurm looks twice a minute); a minute is the shortest limit."""
    (job,) = submit(cluster, SMALL, "--time 1 --grace 10", pause=1.0)
    run = cluster.work / f"runs/quickstart/slurm-{job}"
    cluster.wait(job, "COMPLETED", seconds=400)
    assert cluster.restarts(job) >= 1
    assert "stopped by signal 10" in (cluster.work / f"quickstart-{job}.log").read_text()
    assert_same_weights(run, whole)


def test_a_cancelled_job_saves_and_stays_cancelled(cluster: Cluster) -> None:
    (job,) = submit(cluster, SMALL, "", pause=0.5)
    run = cluster.work / f"runs/quickstart/slurm-{job}"
    cluster.until(lambda: (run / "provenance.json").is_file(), "the training to begin")
    cluster.until(lambda: checkpointed(run, 10), "a checkpoint")
    cluster.shell(f"scancel {job}")
    cluster.wait(job, "CANCELLED")
    assert "with the state saved" in (cluster.work / f"quickstart-{job}.log").read_text()
    assert cluster.restarts(job) == 0


def test_a_private_ledger_is_right_after_two_requeues(cluster: Cluster) -> None:
    (job,) = submit(cluster, PRIVATE, "", pause=0.5)
    run = cluster.work / f"runs/edm/digits-dp-small/slurm-{job}"
    cluster.until((run / "ledger.jsonl").is_file, "the first private step")
    requeue(cluster, job)
    cluster.until(lambda: checkpointed(run, 15), "a checkpoint")
    requeue(cluster, job)
    cluster.wait(job, "COMPLETED")
    assert cluster.restarts(job) == 2
    spent = json.loads(cluster.shell(f"gentool privacy-account {run} --json"))
    assert spent["steps"] == 40  # both lives stopped with their state saved: no step was taken twice
    alone = (
        f"--noise-multiplier {spent['noise_multiplier']} --sample-rate {spent['sample_rate']} "
        f"--steps 40 --delta {spent['delta']}"
    )
    planned = json.loads(cluster.shell(f"gentool privacy-account {alone} --json"))
    assert spent["epsilon"] == pytest.approx(planned["epsilon"], rel=1e-12)
    assert spent["epsilon"] <= 8


def test_an_array_trains_four_seeds_without_a_clash(cluster: Cluster, whole: Path) -> None:
    (job,) = submit(cluster, SMALL, "--array 4")
    runs = [cluster.work / f"runs/quickstart/slurm-{job}-{task}" for task in range(4)]
    for task in range(4):
        cluster.wait(f"{job}_{task}", "COMPLETED")
    seeds = [
        next(line for line in (run / "recipe.yaml").read_text().splitlines() if line.startswith("seed:"))
        for run in runs
    ]
    assert seeds == [f"seed: {task}" for task in range(4)]
    assert_same_weights(runs[0], whole)
    assert len({(run / "model.safetensors").read_bytes() for run in runs}) == 4


def test_two_processes_train_and_sample_as_one(cluster: Cluster, whole: Path) -> None:
    jobs = submit(cluster, (*SMALL, "model.network.dropout=0", "trainer.devices=2"), "--then sample")
    for job in jobs:
        cluster.wait(job, "COMPLETED")
    run = cluster.work / f"runs/quickstart/slurm-{jobs[0]}"
    (together,) = run.glob("samples/*.h5")
    cluster.shell(f"gentool sample {run} -q -o alone.npz")
    alone, both = read_samples(cluster.work / "alone.npz"), read_samples(together)
    np.testing.assert_array_equal(both.array, alone.array)
    assert both.provenance["command"][0] == "gentool"
    cluster.shell(f"gentool train {shlex.join(SMALL)} model.network.dropout=0 --run-dir one -q")
    ours, theirs = (load_file(r / "model.safetensors") for r in (run, cluster.work / "one"))
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-4)
