"""gentool train with a privacy block: what it tells, what it refuses, where it ends, and what a kill costs."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gentool import families
from gentool.errors import UserError
from gentool.privacy.account import account_of
from gentool.privacy.accountants import Spent
from gentool.privacy.gradients.engines import ENGINES
from gentool.privacy.ledger import Ledger
from gentool.privacy.mechanisms import Phase
from gentool.privacy.rdp import RDP
from gentool.recipes.resolve import resolve
from gentool.runs import checkpoints
from gentool.runs.folder import RunFolder
from gentool.tasks.train import train
from gentool.tasks.training.private import MARKS, PrivateTraining, prepare
from gentool.training.module import GenModule
from gentool.training.private.setup import build_engine, check, physical_batch
from tests.privacy.private_modules import private_module
from tests.tasks.private_runs import STEPS, TINY, noted, start, wait_for
from tests.tasks.runs import Call


def ledger_of(run: Path) -> Ledger:
    return Ledger.open(run / "ledger.jsonl")


def spent(ledger: Ledger, steps: int | None = None) -> float:
    """Epsilon by the ledger, or of so many steps of its newest plan."""
    plan = ledger.plan
    assert plan is not None
    if steps is None:
        return account_of(ledger, plan).spent.epsilon
    mechanism = ledger.phases()[-1].mechanism
    return plan.judge.epsilon((Phase(mechanism, steps),), plan.delta).epsilon


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("private") / "run"
    train(TINY[0], TINY[1:], run_dir=path)
    return path


def test_an_uninterrupted_run_states_exactly_what_it_took(whole: Path) -> None:
    ledger = ledger_of(whole)
    assert ledger.steps == STEPS
    assert ledger.unsettled == 0
    assert spent(ledger) == spent(ledger, STEPS)
    assert spent(ledger) <= 8 <= spent(ledger) * 1.001  # the noise is calibrated to the target, from below
    assert ledger.plan is not None
    assert ledger.plan.expected_batch == 32


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_run_never_states_less_than_it_took(seed: int, tmp_path: Path) -> None:
    run, notes, draw = tmp_path / "run", tmp_path / "notes", random.Random(seed)
    kills = 4
    for _ in range(kills):
        taken = len(noted(notes))
        process = start(run, notes, "privacy.epsilon=null", "privacy.noise_multiplier=1.1")
        wait_for(notes, taken + draw.randrange(1, 14), process, draw)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        steps = noted(notes)
        if steps:
            ledger = ledger_of(run)
            assert ledger.steps >= len(steps)
            assert spent(ledger) >= spent(ledger, len(steps))
    process = start(run, notes, "privacy.epsilon=null", "privacy.noise_multiplier=1.1")
    process.join()
    assert process.exitcode == 0
    steps, ledger = noted(notes), ledger_of(run)
    assert set(steps) == set(range(STEPS))
    assert len(steps) > STEPS  # steps were taken again, and are counted again
    assert len(steps) <= ledger.steps <= len(steps) + kills  # a kill costs a step of the budget at most
    assert ledger.plan is not None
    assert ledger.unsettled <= kills


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stopped_run_goes_on_and_stays_exact(number: int, code: int, tmp_path: Path) -> None:
    run, notes = tmp_path / "run", tmp_path / "notes"
    process = start(run, notes)
    wait_for(notes, 20, process, random.Random(0))
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == code
    steps = noted(notes)
    assert ledger_of(run).steps == len(steps) < STEPS
    process = start(run, notes)
    process.join()
    assert process.exitcode == 0
    assert noted(notes) == list(range(STEPS))
    ledger = ledger_of(run)
    assert ledger.steps == STEPS
    assert spent(ledger) == spent(ledger, STEPS) <= 8


def test_a_budget_cut_short_by_kills_ends_the_training_early_and_then_forbids_it(
    tmp_path: Path, call: Call
) -> None:
    run, notes = tmp_path / "run", tmp_path / "notes"
    process = start(run, notes)
    wait_for(notes, 20, process, random.Random(1))
    process.kill()
    process.join()
    again = len(noted(notes)) - checkpoint_step(run)
    assert again > 0
    ended = call("train", *TINY, "--run-dir", run, "--resume", "auto", "--json")
    assert ended.code == 0, ended.err
    assert "one more would exceed epsilon 8" in ended.err
    assert STEPS - again - 1 <= ended.json["steps"] <= STEPS - again
    assert ended.json["epsilon"] <= 8
    assert checkpoint_step(run) == ended.json["steps"]
    ledger = ledger_of(run)
    assert spent(ledger) <= 8 < spent(ledger, ledger.steps + 1)
    call("train", *TINY, "--run-dir", run, "--resume", "auto").refused(3, "would exceed epsilon 8")
    assert ledger_of(run).steps == ledger.steps


def checkpoint_step(run: Path) -> int:
    state, _ = checkpoints.newest(run / "checkpoints")
    return 0 if state is None else int(state["step"])


def test_more_steps_than_the_budget_are_forbidden(whole: Path, tmp_path: Path, call: Call) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    asked = (*TINY, f"trainer.max_steps={STEPS + 5}", "--run-dir", run, "--resume", "auto")
    call("train", *asked).refused(3)
    assert ledger_of(run).steps == STEPS


def test_other_noise_is_a_new_phase_that_must_be_allowed(whole: Path, tmp_path: Path, call: Call) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    more = (
        "privacy.epsilon=null",
        "privacy.noise_multiplier=3",
        f"trainer.max_steps={STEPS + 5}",
        "--run-dir",
        run,
        "--resume",
        "auto",
    )
    call("train", *TINY, *more).refused(2, "privacy.noise_multiplier", "--allow-change")
    ended = call("train", *TINY, *more, "--allow-change", "--json")
    assert ended.code == 0, ended.err
    assert "new phase" in ended.err
    phases = ledger_of(run).phases()
    assert [phase.steps for phase in phases] == [STEPS, 5]
    assert phases[1].mechanism.noise_multiplier == 3


def test_no_ledger_no_resume(whole: Path, tmp_path: Path, call: Call) -> None:
    def asked(run: Path, *more: str) -> Sequence[str | Path]:
        return (
            "train",
            *TINY,
            f"trainer.max_steps={STEPS + 1}",
            *more,
            "--run-dir",
            run,
            "--resume",
            "auto",
            "--allow-change",
        )

    run = shutil.copytree(whole, tmp_path / "missing")
    (run / "ledger.jsonl").unlink()
    call(*asked(run)).refused(4, "ledger is missing")
    run = shutil.copytree(whole, tmp_path / "cut")
    lines = (run / "ledger.jsonl").read_text().splitlines(keepends=True)
    (run / "ledger.jsonl").write_text("".join(lines[:10]))
    call(*asked(run)).refused(4, "cut back")
    run = shutil.copytree(whole, tmp_path / "open")
    call(*asked(run, "privacy=null")).refused(2, "void what its ledger states")


def test_a_folder_with_a_ledger_trains_with_privacy_or_not_at_all(
    whole: Path, tmp_path: Path, call: Call
) -> None:
    """Killed before its first checkpoint, a private run leaves a ledger that must not vouch for other steps."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("recipe.yaml", "ledger.jsonl"):
        shutil.copyfile(whole / name, run / name)
    asked = ("train", *TINY, "privacy=null", "--run-dir", run, "--resume", "auto", "--allow-change")
    call(*asked).refused(2, "void what its ledger states")
    assert not (run / "model.safetensors").exists()
    plain = train(TINY[0], (*TINY[1:], "privacy=null", "trainer.max_steps=1"), run_dir=tmp_path / "plain").run
    shutil.copyfile(whole / "ledger.jsonl", plain / "ledger.jsonl")
    call("export", plain, "-o", tmp_path / "out").refused(4, "ledger.jsonl", "not of this run")


def test_a_public_checkpoint_is_not_gone_on_with_privately(tmp_path: Path, call: Call) -> None:
    run = tmp_path / "run"
    train(TINY[0], (*TINY[1:], "privacy=null", "trainer.max_steps=4"), run_dir=run)
    asked = ("train", *TINY, "--run-dir", run, "--resume", "auto", "--allow-change")
    call(*asked).refused(2, "trained without privacy")
    assert not (run / "ledger.jsonl").exists()


def test_a_further_process_comes_to_the_same_plan_whenever_it_reads_the_ledger(tmp_path: Path) -> None:
    """Slurm and torchrun start all processes at once: a further one may find no ledger, or half of its first line."""
    resolved = resolve(TINY[0], TINY[1:], families.recipe_schema)
    module, run = private_module("mlp"), RunFolder(tmp_path)

    def prepared(main: bool) -> PrivateTraining:
        done = prepare(run, resolved, module, None, allow_change=False, main=main, say=lambda line: None)
        assert done is not None
        return done

    first = prepared(main=True)
    whole = run.ledger.read_bytes()
    run.ledger.unlink()
    assert (prepared(main=False).plan, run.ledger.exists()) == (first.plan, False)
    for length in (0, 1, whole.index(b"\n"), whole.index(b"\n") + 1, len(whole) - 9, len(whole)):
        run.ledger.write_bytes(whole[:length])
        further = prepared(main=False)
        assert (further.plan, further.stop, further.ledger) == (first.plan, first.stop, None)
        assert run.ledger.read_bytes() == whole[:length]


def test_a_slow_accountant_is_asked_seldom_and_what_is_told_is_never_too_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    exact = RDP.epsilon

    def slow(self: RDP, phases: Sequence[Phase], delta: float) -> Spent:
        asked.append(sum(phase.steps for phase in phases))
        return exact(self, phases, delta)

    resolved = resolve(TINY[0], (*TINY[1:], "trainer.max_steps=200"), families.recipe_schema)
    module, run = private_module("mlp"), RunFolder(tmp_path)
    training = prepare(run, resolved, module, None, allow_change=False, main=True, say=lambda line: None)
    assert training is not None
    assert training.ledger is not None
    monkeypatch.setattr(RDP, "epsilon", slow)
    assert training.ledger.remaining(training.plan, enough=200) == 200
    assert asked == [0, 200]  # what was spent, and whether all that is wanted fits
    asked.clear()
    monkeypatch.setattr(RDP, "instant", False)
    told = []
    for step in range(200):
        training.cover(step)
        told.append(training.epsilon_so_far())
        assert told[-1] >= spent(training.ledger)
    assert told == sorted(told)
    assert len(set(told)) <= MARKS
    assert told[-1] == spent(training.ledger) <= 8


def test_what_it_will_cost_is_told_before_training(whole: Path, call: Call) -> None:
    ended = call("train", *TINY, "--dry-run", "--json")
    assert ended.code == 0, ended.err
    plan = ended.json["privacy"]
    assert plan["expected_batch"] == 32
    assert plan["sample_rate"] == pytest.approx(0.16)
    assert plan == ledger_of(whole).plan.document()  # type: ignore[union-attr]
    assert ended.json["steps_per_second"] > 0
    assert ended.json["memory_bytes"] > 0


def test_a_run_says_when_it_protects_nobody(tmp_path: Path, call: Call) -> None:
    short = ("trainer.max_steps=2", "-q", "--json")
    for name, change in (("seed", "privacy.debug_seed=1"), ("off", "privacy.enabled=false")):
        ended = call("train", *TINY, *short, change, "--run-dir", tmp_path / name)
        assert ended.code == 0, ended.err
        assert "epsilon" not in ended.json
        assert "NOT PRIVATE" in (tmp_path / name / "README.md").read_text()


def test_figures_of_a_private_run_are_said_to_be_uncovered(whole: Path, tmp_path: Path, call: Call) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    ended = call("evaluate", run, "-n", 12, "--metric", "fid", "--features", "pixels")
    assert ended.code == 0, ended.err
    assert "no epsilon covers them" in ended.err
    assert "fid" not in (run / "README.md").read_text()


def test_a_debugged_run_repeats_and_a_private_one_does_not(tmp_path: Path) -> None:
    def weights(name: str, *changes: str) -> bytes:
        train(TINY[0], (*TINY[1:], "trainer.max_steps=3", *changes), run_dir=tmp_path / name)
        return (tmp_path / name / "model.safetensors").read_bytes()

    assert weights("a", "privacy.debug_seed=3") == weights("b", "privacy.debug_seed=3")
    assert weights("c") != weights("d")


def test_training_without_noise_learns(tmp_path: Path) -> None:
    """The private path with enabled: false is ordinary training on Poisson batches."""
    changes = (
        "privacy.enabled=false",
        "trainer.max_steps=120",
        "data.batch_size=100",
        "trainer.log_every=20",
    )
    train(TINY[0], (*TINY[1:], *changes), run_dir=tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.85 * rows[0]["loss"]
    assert all(row["clipped"] == row["skipped"] == 0 for row in rows)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("trainer.clip_norm=1", ("trainer.clip_norm", "each record's gradient")),
        ("trainer.accumulate=2", ("trainer.accumulate", "physical_batch")),
        ("trainer.precision=16-mixed", ("trainer.precision", "bf16-mixed")),
        ("trainer.strategy=fsdp", ("trainer.strategy", "ddp")),
        ("trainer.compile=true", ("trainer.compile", "vmap")),
        ("model.precond.sigma_data=data", ("model.precond.sigma_data", "0.57735")),
        ("model.loss.times.stratified=true", ("model.loss.times.stratified", "independent")),
    ],
)
def test_what_does_not_go_with_privacy_is_refused_at_its_key(
    change: str, words: tuple[str, ...], tmp_path: Path, call: Call
) -> None:
    changes = [change] if "times" not in change else ["model.loss.times.name=log-normal", change]
    call("train", *TINY, *changes, "--run-dir", tmp_path / "run").refused(2, *words)
    assert not (tmp_path / "run" / "ledger.jsonl").exists()


class Normed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 64))


class Counting(nn.Module):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x)


class Mixing(nn.Linear):
    def __init__(self) -> None:
        super().__init__(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0, keepdim=True))


class Idle(nn.Linear):
    def __init__(self) -> None:
        super().__init__(64, 64)
        self.idle = nn.Linear(3, 3)


def with_network(network: nn.Module) -> GenModule:
    """A module whose network takes pictures alone."""
    module = private_module("mlp")

    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x: Tensor, *rest: object) -> Tensor:
            return self.inner(x.flatten(1)).view_as(x)

    module.model.network = Alone()
    return module


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Normed, "inner.1 is a BatchNorm1d"),
        (Counting, "writes to the buffer .*calls"),
        (Mixing, "mixes records"),
        (Idle, "does not depend on .*idle.weight"),
    ],
)
def test_networks_that_couple_records_are_refused_by_name(network: type[nn.Module], words: str) -> None:
    module = with_network(network())
    assert module.recipe.privacy is not None
    privacy = module.recipe.privacy

    def tried() -> None:
        check(module)
        build_engine(module, privacy, lambda line: None)

    with pytest.raises(UserError, match=words):
        tried()


def test_vmap_takes_over_where_a_layer_has_no_rule_and_says_so() -> None:
    class Scaled(nn.Linear):
        def __init__(self) -> None:
            super().__init__(64, 64)
            self.scale = nn.Parameter(torch.ones(64))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.scale

    module, said = with_network(Scaled()), []
    assert module.recipe.privacy is not None
    engine = build_engine(module, module.recipe.privacy, said.append)
    assert type(engine) is ENGINES["vmap"]
    assert "mul" in said[0]
    assert "vmap takes its place" in said[0]


def test_families_that_draw_once_refuse_noise_multiplicity(call: Call) -> None:
    asked = ("train", "classifier/digits-small", "privacy={epsilon: 8, noise_multiplicity: 2}")
    call(*asked).refused(2, "privacy.noise_multiplicity", "nothing to average")


def test_a_family_without_losses_of_records_is_refused() -> None:
    module = private_module("mlp")
    module.__class__ = type("Own", (type(module),), {"losses": GenModule.losses})
    with pytest.raises(UserError, match="does not train on a mean of losses"):
        check(module)


@pytest.mark.parametrize("family", ["classifier/digits-small", "classifier/digits-noisy-small"])
def test_classifiers_train_privately(family: str, tmp_path: Path) -> None:
    changes = (
        "privacy={noise_multiplier: 1.0}",
        "trainer.max_steps=2",
        "data.batch_size=16",
        "model.network.channels=8",
    )
    if "noisy" in family:
        changes += ("model.noise.times.stratified=false",)
    done = train(family, changes, run_dir=tmp_path / "run")
    assert done.steps == 2
    assert done.epsilon is not None
    assert 0 < done.epsilon < 10


def test_the_physical_batch_keeps_to_the_memory_given() -> None:
    taken = {}
    for engine in ("layers", "vmap"):
        module = private_module("u-net", privacy=f"noise_multiplier: 1.0, engine: {engine}, memory_gib: 0.1")
        assert module.recipe.privacy is not None
        built = build_engine(module, module.recipe.privacy, lambda line: None)
        at_once, each = physical_batch(module, built, module.recipe.privacy)
        assert at_once == int(0.1 * 2**30 / each)
        taken[engine] = each
        fixed = module.recipe.privacy.model_copy(update={"physical_batch": 3})
        assert physical_batch(module, built, fixed)[0] == 3
    assert taken["vmap"] > 4 * sum(p.numel() for p in module.parameters())  # a record's gradient alone
    assert taken["layers"] < taken["vmap"]
