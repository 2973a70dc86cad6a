"""The step: what is released is the clipped sum plus noise of the planned size, over the expected batch."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from scipy import stats
from torch import Tensor

from gentool.privacy.gradients.engine import ClippedSum, Engine, records
from gentool.privacy.gradients.engines import ENGINES
from gentool.privacy.plan import Plan
from gentool.privacy.randomness import Secrets
from gentool.training.private.step import PrivateStep
from tests.privacy.private_modules import drawn_module

SIGMA, CLIP, BATCH = 1.5, 0.2, 7.5


def plan_of(noise: float | None = SIGMA) -> Plan:
    return Plan(
        sample_rate=0.5,
        records=15,
        expected_batch=BATCH,
        noise_multiplier=noise,
        sensitivity=CLIP,
        delta=1e-5,
        target_epsilon=None,
        steps=10,
    )


def step_of(
    noise: float | None = SIGMA, seed: int | None = None, **rest: object
) -> tuple[PrivateStep, dict[str, Tensor]]:
    module, examples = drawn_module("mlp", draws=2)
    engine = ENGINES["layers"](module, module.losses)
    made = PrivateStep(plan_of(noise), Secrets(seed), engine=engine, physical_batch=4, **rest)  # type: ignore[arg-type]
    return made, examples


@pytest.mark.parametrize("secure", [False, True])
def test_noise_is_sigma_times_the_norm_over_the_expected_batch(secure: bool) -> None:
    step, examples = step_of(secure=secure)
    total = step.engine(examples, CLIP, 4).total
    noise = step.take(examples, 0).gradient * BATCH - total
    n = len(noise)
    assert abs(float(noise.std()) / (SIGMA * CLIP) - 1) < 3 / math.sqrt(2 * n)
    assert abs(float(noise.mean())) < 4 * SIGMA * CLIP / math.sqrt(n)
    assert stats.kstest((noise / (SIGMA * CLIP)).numpy(), "norm").pvalue > 1e-4


def test_an_empty_batch_is_noise_alone_and_is_accounted_for() -> None:
    covered: list[int] = []
    step, _ = step_of(before=covered.append)
    for number in (0, 1):
        taken = step.take({}, number)
        n = len(taken.gradient)
        assert abs(float(taken.gradient.std()) * BATCH / (SIGMA * CLIP) - 1) < 3 / math.sqrt(2 * n)
        assert float(taken.loss) == float(taken.clipped) == 0
    assert covered == [0, 1]


def test_the_ledger_is_written_before_the_gradient_is_computed() -> None:
    def broken(step: int) -> None:
        raise OSError("no space left")

    step, examples = step_of(before=broken)
    step.engine = None  # type: ignore[assignment]  # nothing may be reached
    with pytest.raises(OSError, match="no space"):
        step.take(examples, 0)


def test_out_of_memory_halves_the_parts_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    step, examples = step_of(seed=1)
    want = step.take(examples, 0).gradient
    part = type(step.engine).part

    def narrow(engine: Engine, some: dict[str, Tensor], clip: float) -> ClippedSum:
        if records(some) > 1:
            raise torch.OutOfMemoryError("no room")
        return part(engine, some, clip)  # type: ignore[arg-type]

    monkeypatch.setattr(type(step.engine), "part", narrow)
    torch.testing.assert_close(step.take(examples, 0).gradient, want, rtol=1e-4, atol=1e-6)
    assert step.physical_batch == 1


def test_two_steps_and_two_runs_differ_and_a_debug_seed_repeats() -> None:
    def released(seed: int | None, number: int) -> Tensor:
        step, examples = step_of(seed=seed)
        return step.take(examples, number).gradient

    assert not torch.equal(released(None, 0), released(None, 0))
    assert torch.equal(released(4, 0), released(4, 0))
    assert not torch.equal(released(4, 0), released(4, 1))


def test_without_noise_it_is_the_plain_mean_gradient() -> None:
    """privacy.enabled: false, for a baseline by the same code."""
    step, examples = step_of(noise=None)
    module = step.engine.module
    loss = module.losses(examples)  # type: ignore[operator]
    plain = torch.autograd.grad(loss.sum() / BATCH, list(module.parameters()))
    torch.testing.assert_close(
        step.take(examples, 0).gradient, torch.cat([g.flatten() for g in plain]), rtol=1e-4, atol=1e-6
    )


def test_the_logged_loss_is_the_mean_over_the_expected_batch_without_what_is_not_finite() -> None:
    step, examples = step_of()
    losses = step.engine(examples, CLIP, 4).losses
    assert float(step.take(examples, 0).loss) == pytest.approx(float(losses.sum()) / BATCH, rel=1e-5)
    examples["x0"] = examples["x0"].clone()
    examples["x0"][2] = math.nan
    taken = step.take(examples, 1)
    assert taken.gradient.isfinite().all()
    assert float(taken.loss) == pytest.approx(float(losses[[0, 1, 3]].sum()) / BATCH, rel=1e-5)
    assert float(step.skipped) == 1


def _rank(rank: int, world: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    covered: list[int] = []
    # Each process has secrets of its own, as each draws them from the operating system.
    step, examples = step_of(before=covered.append, rank=rank, world=world)
    own = {name: rows[rank::world] for name, rows in examples.items()}
    parts = [step.take(own if number else {}, number).gradient for number in range(3)]
    total = step.engine(own, CLIP, 4).total
    torch.distributed.all_reduce(total)
    torch.save((parts, total, covered), Path(folder) / str(rank))
    torch.distributed.destroy_process_group()


def test_two_processes_release_one_noise(tmp_path: Path) -> None:
    mp.spawn(_rank, (2, 29_500 + os.getpid() % 400, str(tmp_path)), nprocs=2)
    (mine, total, covered), (theirs, _, uncovered) = (torch.load(tmp_path / str(r)) for r in range(2))
    assert covered == [0, 1, 2]
    assert uncovered == []  # one ledger
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs))  # the weights stay equal
    alone, examples = step_of()
    torch.testing.assert_close(total, alone.engine(examples, CLIP, 4).total, rtol=1e-4, atol=1e-6)
    noises = [mine[0] * BATCH, *(part * BATCH - total for part in mine[1:])]
    for noise in noises:
        assert abs(float(noise.std()) / (SIGMA * CLIP) - 1) < 4 / math.sqrt(2 * len(noise))
        assert stats.kstest((noise / (SIGMA * CLIP)).numpy(), "norm").pvalue > 1e-4
    assert abs(float((noises[1] * noises[2]).mean())) < 4 * (SIGMA * CLIP) ** 2 / math.sqrt(len(total))
