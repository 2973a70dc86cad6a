"""gentool train: dry runs, what a run leaves behind, and switches that must not change what is learned."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.accelerators import MPSAccelerator
from torch import Tensor

from gentool import families
from gentool.data import StepBatches, open_set
from gentool.errors import UserError
from gentool.recipes.resolve import leaves, resolve
from gentool.runs.weights import load_weights
from gentool.tasks.model.build import build_module
from gentool.tasks.train import Trained, train
from gentool.tasks.training.status import Status
from tests.tasks.runs import TINY, Call, gentool

SHORT = (
    *TINY,
    "trainer.max_steps=4",
    "trainer.checkpoint_every=4",
    "trainer.log_every=2",
    "model.network.dropout=0",
)
PLAIN = (*SHORT, "optimizer.name=sgd", "optimizer.schedule=constant", "optimizer.warmup=0")


def learn(folder: Path, *overrides: str, recipe: tuple[str, ...] = SHORT, **how: Any) -> dict[str, Tensor]:
    """The weights that sampling would use."""
    name, *changes = recipe
    done = train(name, [*changes, *overrides], run_dir=folder, **how)
    assert done.loss is not None
    assert torch.isfinite(torch.tensor(done.loss))
    return load_weights(folder / "model.safetensors")[0]


def initial(*overrides: str, recipe: tuple[str, ...] = SHORT) -> Any:
    """The module as training would start it, and its data."""
    name, *changes = recipe
    resolved = resolve(name, [*changes, *overrides], families.recipe_schema)
    data = open_set(resolved.recipe.data, "train")
    module = build_module(resolved.recipe, data.spec)
    module.fit_to_data(data)
    return module.train(), data


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], **tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], msg=lambda text, n=name: f"{n}: {text}", **tolerance)


# --- dry runs ---


def test_dry_run_says_every_value_with_its_origin_and_writes_nothing(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("train", *TINY, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert list(tmp_path.iterdir()) == []
    found = done.json
    assert found.keys() >= {"family", "parameters", "steps_per_second", "memory_bytes"}
    assert found["parameters"]["total"] == sum(found["parameters"]["by_module"].values())
    recipe = resolve(TINY[0], TINY[1:], families.recipe_schema).recipe
    values = {row["key"]: json.loads(row["value"]) for row in found["values"]}
    assert values == dict(leaves(recipe.model_dump(mode="json")))
    origins = {row["key"]: row["origin"] for row in found["values"]}
    assert origins["trainer.max_steps"] == "override 'trainer.max_steps=60'"
    assert origins["optimizer.eps"] == "default"
    assert re.fullmatch(r"quickstart\.yaml:\d+:\d+", origins["sample.solver"])


def test_dry_run_for_people(call: Call) -> None:
    done = call("train", *TINY, "--dry-run")
    assert done.code == 0
    for word in ("optimizer.eps", "default", "parameters", "memory", "speed", "steps/s"):
        assert word in done.out


def test_a_dry_run_checks_the_run_that_it_would_go_on_with(tmp_path: Path, call: Call) -> None:
    """It is refused where training would be, says how far the run has come, and touches nothing."""
    run, dry = tmp_path / "run", ("--dry-run", "--json")
    fresh = call("train", *TINY, *dry, "--run-dir", run).json
    assert (fresh["run"], fresh["step"]) == (str(run), 0)
    assert not run.exists()
    assert call("train", *TINY, "trainer.max_steps=3", "--run-dir", run).code == 0
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    found = call("train", *TINY, *dry, "--resume", run).json
    assert (found["run"], found["step"]) == (str(run), 3)
    assert f"{run}, at step 3 of 60" in call("train", *TINY, "--dry-run", "--resume", run).out
    call("train", *TINY, *dry, "--run-dir", run).refused(2, "already holds a run", "--resume auto")
    call("train", *TINY, *dry, "--resume", tmp_path / "none").refused(2, "none")
    other = "optimizer.lr=0.5"
    call("train", *TINY, other, *dry, "--resume", run).refused(2, "optimizer.lr", "--allow-change")
    assert call("train", *TINY, other, *dry, "--resume", run, "--allow-change").json["step"] == 3
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_change_is_allowed_to_a_run_alone(call: Call) -> None:
    call("train", *TINY, "--allow-change").refused(2, "--allow-change", "--resume")


def test_dry_run_shares_the_batch_over_the_devices(call: Call) -> None:
    """Weights lie on each device, a share of the batch's activations, and a ring all-reduce moves the gradient."""
    alone = call("train", *TINY, "--dry-run", "--json").json
    shared = call("train", *TINY, "--devices", 4, "--nodes", 8, "--dry-run", "--json").json
    assert (alone["processes"], shared["processes"]) == (1, 32)
    assert alone["communication_bytes"] == 0
    assert shared["communication_bytes"] == 2 * 4 * alone["parameters"]["total"] * 31 // 32
    fixed = 4 * 5 * alone["parameters"]["total"]
    activations = [found["memory_bytes"] - fixed for found in (alone, shared)]
    assert activations[1] == pytest.approx(activations[0] / 32, abs=1)
    done = call("train", *TINY, "--devices", 4, "--nodes", 8, "--dry-run")
    assert "devices     32" in done.out


def test_progress_tells_loss_speed_memory_and_epsilon() -> None:
    """Anew with each row of the log, and not in between."""
    seen: list[tuple[int, dict[str, float]]] = []
    spent = iter((0.5, 0.75))
    status = Status(
        lambda step, total, figures: seen.append((step, dict(figures))),
        lambda: torch.device("cpu"),
        lambda: next(spent),
    )
    rows = [{}, {"loss": 2.0, "images_per_second": 10.0}, {"loss": 1.0, "images_per_second": 20.0}]
    for step, row in enumerate((rows[0], rows[1], rows[1], rows[2])):
        status(step, 4, row)
    assert seen[0] == (0, {})
    assert seen[1][1] == seen[2][1]
    assert [(f["loss"], f["images/s"], f["epsilon"]) for _, f in seen[2:]] == [
        (2.0, 10.0, 0.5),
        (1.0, 20.0, 0.75),
    ]
    assert seen[3][1]["GiB"] > 0.05  # this process has imported torch


def test_dry_run_needs_no_data(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST's shape is known without its files; nothing is opened, fetched or written."""
    monkeypatch.setenv("GENTOOL_DATA", str(tmp_path / "nowhere"))
    thin = ("model.network.channels=8", "data.batch_size=2")
    done = call("train", "edm/mnist-small", *thin, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert list(tmp_path.iterdir()) == []


# --- what a run leaves behind ---


def test_the_run_folder(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("train", *SHORT, "--json")
    assert done.code == 0, done.err
    found = done.json
    assert found.keys() >= {"run", "steps", "seconds", "loss"}
    run = Path(found["run"])
    assert re.fullmatch(r"runs/quickstart/\d{8}-\d{6}-[0-9a-f]{6}", str(run))
    files = {
        "recipe.yaml",
        "model.safetensors",
        "metrics.csv",
        "metrics.jsonl",
        "provenance.json",
        "README.md",
    }
    assert {path.name for path in run.iterdir()} >= files | {"checkpoints"}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert rows[-1]["loss"] == found["loss"]
    header, *lines = (run / "metrics.csv").read_text().splitlines()
    assert header.split(",") == list(rows[0])
    assert len(lines) == len(rows)
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance.keys() >= {"versions", "command", "data_fingerprint", "lives", "steps"}
    assert provenance["lives"][0] | {"from_step": 0, "to_step": 4} == provenance["lives"][0]


def test_the_last_line_is_the_run_folder(tmp_path: Path, call: Call) -> None:
    assert call("train", *SHORT, "--run-dir", tmp_path / "run").out == f"{tmp_path / 'run'}\n"


def test_the_stored_recipe_trains_the_same_weights(tmp_path: Path) -> None:
    first = learn(tmp_path / "a")
    again = learn(tmp_path / "b", recipe=(str(tmp_path / "a" / "recipe.yaml"),))
    assert_close(first, again, rtol=0, atol=0)


def test_the_seed_decides(tmp_path: Path) -> None:
    first, other = learn(tmp_path / "a"), learn(tmp_path / "b", "seed=1")
    assert any((first[name] != other[name]).any() for name in first)


def test_resume_auto_finds_the_newest_run_of_the_same_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *changes = SHORT

    def go(*more: str) -> Trained:
        return train(name, [*changes, *more], resume="auto")

    first, other = go(), go("optimizer.lr=0.1")
    assert go().run == first.run != other.run


# --- switches ---


def test_accumulated_batches_give_the_mean_gradient(tmp_path: Path) -> None:
    """One step of two batches is a step of plain descent along the mean of their gradients."""
    changes = ("trainer.accumulate=2", "trainer.max_steps=1", "ema=null", "optimizer.lr=0.1")
    trained = learn(tmp_path / "run", *changes, recipe=PLAIN)
    module, data = initial(*changes, recipe=PLAIN)
    for micro, rows in enumerate(StepBatches(len(data), 32, seed=module.recipe.seed, stop=2)):
        module._seed(micro)
        (module.per_example_loss(data.take(rows)).mean() / 2).backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= 0.1 * parameter.grad
    assert_close(trained, dict(module.model.state_dict()), rtol=1e-5, atol=1e-6)


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    """With plain descent the first step is lr x clip_norm long, where the gradient is longer than the clip."""
    changes = ("trainer.max_steps=1", "trainer.clip_norm=1e-3", "optimizer.lr=1.0", "ema=null")
    trained = learn(tmp_path / "run", *changes, recipe=PLAIN)
    before = initial(*changes, recipe=PLAIN)[0].model.state_dict()
    moved = torch.sqrt(
        sum(((trained[n] - before[n]).double().square().sum() for n in before), torch.tensor(0.0))
    )
    assert float(moved) == pytest.approx(1e-3, rel=1e-2)


def test_bfloat16_learns_about_the_same(tmp_path: Path) -> None:
    exact, rough = learn(tmp_path / "a"), learn(tmp_path / "b", "trainer.precision=bf16-mixed")
    start = initial()[0].model.state_dict()
    moved = sum(float((exact[n] - start[n]).double().square().sum()) for n in exact)
    apart = sum(float((exact[n] - rough[n]).double().square().sum()) for n in exact)
    assert 0 < apart < 0.05 * moved
    assert {value.dtype for value in rough.values()} == {value.dtype for value in exact.values()}


def test_double_precision_is_kept_when_a_run_resumes(tmp_path: Path) -> None:
    same = ("trainer.precision=64-true", "optimizer.schedule=constant")
    whole = learn(tmp_path / "whole", *same)
    assert {value.dtype for value in whole.values()} == {torch.float64}
    learn(tmp_path / "run", *same, "trainer.max_steps=2")
    assert_close(learn(tmp_path / "run", *same, resume="auto"), whole, rtol=0, atol=0)


def test_ema_at_its_ends(tmp_path: Path) -> None:
    """Without an average, and with decay 0, the raw weights are kept; with decay 1 the first ones are."""
    raw = learn(tmp_path / "raw", "ema=null")
    assert_close(learn(tmp_path / "none", "ema={rule: constant, decay: 0.0}"), raw, rtol=0, atol=0)
    first = learn(tmp_path / "first", "ema={rule: constant, decay: 1.0}")
    assert_close(first, dict(initial()[0].model.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("rule", "betas"),
    [
        ("{rule: constant, decay: 0.5}", [0.5, 0.5, 0.5, 0.5]),
        ("{rule: ramp, decay: 0.25}", [2 / 11, 3 / 12, 0.25, 0.25]),
        ("{rule: half-life, half_life: 16, ramp_up: 0.5}", [0.0, 0.25, 0.25, 0.25]),
        ("{rule: inverse-power, decay: 0.6, power: 1.0}", [0.0, 0.5, 0.6, 0.6]),
    ],
)
def test_ema_follows_its_rule(rule: str, betas: list[float], tmp_path: Path) -> None:
    """model.safetensors is the average, by hand, of the raw weights after each of four steps of 32 images."""
    after = [
        learn(tmp_path / f"{k}", f"trainer.max_steps={k}", "ema=null", recipe=PLAIN) for k in (1, 2, 3, 4)
    ]
    expected = {name: value.double() for name, value in initial(recipe=PLAIN)[0].model.state_dict().items()}
    for beta, weights in zip(betas, after, strict=True):
        expected = {name: beta * value + (1 - beta) * weights[name] for name, value in expected.items()}
    averaged = learn(tmp_path / "ema", f"ema={rule}", recipe=PLAIN)
    assert_close(
        averaged,
        {name: value.to(averaged[name].dtype) for name, value in expected.items()},
        rtol=1e-5,
        atol=1e-6,
    )


def test_compile_falls_back_where_there_is_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, str(tmp_path / "no-compiler")))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    said: list[str] = []
    compiled = learn(tmp_path / "a", "trainer.compile=true", say=said.append)
    torch._dynamo.reset()
    assert any("torch.compile does not work here, training goes on without it" in line for line in said)
    assert_close(compiled, learn(tmp_path / "b"), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_training_learns_the_same(tmp_path: Path) -> None:
    torch._dynamo.reset()
    said: list[str] = []
    compiled = learn(tmp_path / "a", "trainer.compile=true", say=said.append)
    assert said == []
    assert_close(compiled, learn(tmp_path / "b"), rtol=1e-4, atol=1e-4)


def test_tensorboard_that_is_missing_is_named_with_the_remedy(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from importlib.util import find_spec

    if find_spec("tensorboard") or find_spec("tensorboardX"):
        pytest.skip("tensorboard is installed here")
    with pytest.raises(
        UserError, match=r"tensorboard is not installed; pip install 'gentool\[tensorboard\]'"
    ):
        learn(tmp_path / "run", "trainer.loggers=[tensorboard]")


# --- several processes ---


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """DDP over gloo: the same global batches, noise and label dropout, so the same weights to rounding."""
    whole = tmp_path / "runs" / "two"
    done = gentool(
        "train", *SHORT, "trainer.devices=2", "trainer.accelerator=cpu", "--run-dir", whole, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(whole)  # one document, by rank 0 alone
    assert [path.name for path in whole.parent.iterdir()] == ["two"]
    assert [json.loads(line)["step"] for line in (whole / "metrics.jsonl").read_text().splitlines()] == [2, 4]
    assert_close(load_weights(whole / "model.safetensors")[0], learn(tmp_path / "one"), rtol=1e-4, atol=2e-5)


def test_a_batch_that_does_not_divide_is_refused_and_the_folder_stays_free(
    tmp_path: Path, call: Call
) -> None:
    run = tmp_path / "run"
    changes = ("trainer.devices=2", "trainer.accelerator=cpu", "data.batch_size=31")
    call("train", *SHORT, *changes, "--run-dir", run).refused(2, "data.batch_size 31", "2 devices")
    assert call("train", *SHORT, "--run-dir", run).code == 0


def test_an_accelerator_without_float64_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning would choose Apple's GPU where there is one."""
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    learn(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["lives"][-1]["device"] == "cpu"
