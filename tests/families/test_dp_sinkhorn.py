"""The family dp-sinkhorn: its step, its privacy, its refusals, its runs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gentool import families
from gentool.data import Batch, open_set
from gentool.errors import RecipeError, UserError
from gentool.families.dp_sinkhorn.mechanism import clipped
from gentool.families.dp_sinkhorn.module import DpSinkhornModule
from gentool.privacy.calibrate import find_steps
from gentool.privacy.ledger import Ledger
from gentool.privacy.mechanisms import SampledGaussian
from gentool.privacy.plan import plan
from gentool.privacy.randomness import Secrets
from gentool.privacy.rdp import RDP
from gentool.recipes.resolve import resolve
from gentool.runs.samples import read_samples
from gentool.runs.weights import load_weights
from gentool.tasks.model.build import build_module
from gentool.tasks.model.load import load_run
from gentool.tasks.sample import sample
from gentool.tasks.train import train
from gentool.tasks.training.dryrun import dry_run
from gentool.training.private.step import OwnStep
from tests.tasks.runs import Call

DIGITS = "dp-sinkhorn/digits-small"
TINY = (
    "data.batch_size=20",
    "model.network.width=16",
    "trainer.max_steps=12",
    "trainer.checkpoint_every=4",
    "trainer.log_every=4",
)
PRIVATE = "privacy={noise_multiplier: 2.0, max_grad_norm: 0.5}"


def module_of(*overrides: str, private: bool = True) -> DpSinkhornModule:
    """A fresh module; with a `privacy:` block also its private step, of a known seed."""
    recipe = resolve(DIGITS, [*TINY, *overrides], families.recipe_schema).recipe
    module = build_module(recipe, open_set(recipe.data, "train").spec)
    assert isinstance(module, DpSinkhornModule)
    if recipe.privacy is not None and private:
        made = plan(recipe.privacy, 20, 12, 1438, private_step=recipe.private_step)
        module.private = OwnStep(made, Secrets(debug_seed=1))
    return module


def batch_of(module: DpSinkhornModule, rows: range) -> Batch:
    return open_set(module.recipe.data, "train").take(rows)


def gradients(module: DpSinkhornModule, batch: Batch) -> Tensor:
    """A step's gradient of all weights."""
    module.zero_grad()
    module.try_step(batch)
    return torch.cat([w.grad.flatten() for w in module.parameters() if w.grad is not None])


def seen(module: DpSinkhornModule, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """What `released` was given and what it let through, in a step on the batch."""
    found, through = [], module.released

    def watch(gradient: Tensor, rows: int) -> Tensor:
        found.append((gradient, through(gradient, rows)))
        return found[-1][1]

    module.released = watch  # type: ignore[method-assign]
    gradients(module, batch)
    module.released = through  # type: ignore[method-assign]
    return found


# The step


def test_what_is_released_has_one_shape_whatever_the_batch() -> None:
    """Of 20 generated and 8 redrawn images, for real batches of 0, 1 and 50."""
    module = module_of(PRIVATE)
    for size in (0, 1, 50):
        ((given, released),) = seen(module, batch_of(module, range(size)))
        assert given.shape == released.shape == (28, 1, 8, 8)
        assert bool(released.isfinite().all())


def test_an_empty_batch_still_is_noise_of_the_planned_size() -> None:
    module = module_of(PRIVATE)
    ((given, released),) = seen(module, batch_of(module, range(0)))
    noise = released[:20] - clipped(given[:20], 0.5)
    # std = multiplier 2 x sensitivity 2 C = 2 over 1280 values
    assert float(noise.std()) == pytest.approx(2.0, rel=3 / math.sqrt(2 * noise.numel()))
    assert torch.equal(released[20:], clipped(given[20:], 0.5))


def test_a_record_moves_the_release_by_at_most_the_sensitivity() -> None:
    """The same noise and latents, one record more: the ledger's sensitivity bounds the difference."""
    module = module_of(PRIVATE)
    assert module.private is not None
    for size in (0, 1, 7):
        ((_, without),) = seen(module, batch_of(module, range(size)))
        ((_, with_one),) = seen(module, batch_of(module, range(size + 1)))
        assert float((without - with_one).norm()) <= module.private.plan.sensitivity * (1 + 1e-5)
        assert torch.equal(without[20:], with_one[20:])


def test_the_weights_see_the_released_gradient_and_nothing_else() -> None:
    """Post-processing: from the released gradient and the latents alone the weights' gradient is found again."""
    module = module_of(PRIVATE)
    found = seen(module, batch_of(module, range(9)))
    actual = torch.cat([w.grad.flatten() for w in module.parameters() if w.grad is not None])
    module.zero_grad()
    module._seed(0)
    z, label = module.latents(20)
    images = module.model(z, label)
    assert label is not None
    images = torch.cat([images, module.model(module.latents(8)[0], label[:8])])
    images.backward(found[0][1])
    again = torch.cat([w.grad.flatten() for w in module.parameters() if w.grad is not None])
    torch.testing.assert_close(again, actual)


def test_labels_do_not_follow_the_datas() -> None:
    """Real labels all 3: generated ones are uniform still."""
    module = module_of("data.batch_size=4000")
    _, label = module.latents(4000)
    assert label is not None
    counts = torch.bincount(label, minlength=10)
    assert float(((counts - 400) ** 2 / 400).sum()) < 33  # chi-square of 9 degrees, 1e-4


def test_of_parameters_the_whole_gradient_is_clipped_and_noised() -> None:
    module = module_of("model.perturb=parameters", "privacy={noise_multiplier: 0.5, max_grad_norm: 1.0}")
    ((given, released),) = seen(module, batch_of(module, range(20)))
    assert given.numel() == sum(w.numel() for w in module.parameters())
    noise = released - clipped(given, 1.0)
    assert float(noise.std()) == pytest.approx(1.0, rel=0.1)
    actual = torch.cat([w.grad.flatten() for w in module.parameters() if w.grad is not None])
    assert torch.equal(actual, released)


def test_without_noise_nothing_is_clipped() -> None:
    """enabled: false lets the loss's own gradient through, and so does training without a privacy: block."""
    for overrides in ((), ("privacy={enabled: false, max_grad_norm: 1.0e-3}",)):
        module = module_of(*overrides)
        ((given, released),) = seen(module, batch_of(module, range(20)))
        assert torch.equal(given, released)
        assert float(given.norm()) > 1.0e-3


def test_a_gradient_that_is_not_a_number_is_released_as_noise() -> None:
    module = module_of(PRIVATE)
    assert module.private is not None
    broken = torch.full((28, 1, 8, 8), math.nan)
    released = module.released(broken, 20)
    assert bool(released.isfinite().all())
    assert torch.equal(released[20:], torch.zeros(8, 1, 8, 8))
    assert float(module.skipped) == 1


# The plan


@pytest.mark.parametrize(
    ("name", "steps", "classic", "improved"),
    [("mnist", 3_446_203, 10, 9.16), ("fashion-mnist", 1_811_611, 10, 9.16), ("celeba", 463_773, 10, 9.25)],
)
def test_paper_recipes_stop_at_the_papers_epsilon(
    name: str, steps: int, classic: float, improved: float
) -> None:
    """As many steps as epsilon 10 allows by the older conversion, over the few orders that the paper's code looks at;
    over ours it allows up to half a percent more."""
    recipe = resolve(f"dp-sinkhorn/{name}-paper", (), families.recipe_schema).recipe
    made = plan(
        recipe.privacy,
        recipe.data.batch_size,
        recipe.trainer.max_steps,
        None,
        private_step=recipe.private_step,
    )
    assert made.steps == steps
    assert made.sensitivity == pytest.approx(2 * recipe.privacy.max_grad_norm)
    assert made.epsilon() == pytest.approx(improved, abs=0.01)
    mechanism = SampledGaussian(recipe.privacy.noise_multiplier, made.sample_rate)
    allowed = find_steps(classic, made.delta, mechanism, accountant=RDP("classic"))
    assert 0.99 * allowed < steps <= allowed


def test_dry_run_prints_the_plan(call: Call) -> None:
    ended = call("train", DIGITS, *TINY, PRIVATE, "--dry-run")
    assert ended.code == 0, ended.err
    assert "multiplier 2, sensitivity 1" in ended.out
    assert dry_run(DIGITS, [*TINY]).plan is None


# Refusals


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("model.debias=1.5",), ("model.debias", "between 0 and 1")),
        (("model.debias=-0.1",), ("model.debias", "between 0 and 1")),
        (("model.transport.blur=0",), ("model.transport.blur", "above 0")),
        (("model.transport.cost={l1: 0.0, l2: 0.0}",), ("model.transport.cost", "nothing would cost")),
        (("trainer.accumulate=2",), ("trainer.accumulate", "one whole batch")),
        (("trainer.devices=2",), ("trainer.devices", "one device")),
        (("trainer.nodes=2",), ("trainer.nodes", "one device")),
        (("trainer.precision=16-mixed",), ("trainer.precision", "float16")),
        (("model.perturb=parameters",), ("model.perturb", "no privacy: block")),
        (("model.clip=row",), ("model.clip", "no privacy: block")),
        (("model.perturb=parameters", "model.clip=row", PRIVATE), ("model.clip", "row is of images")),
        (("privacy={noise_multiplier: 1.0, max_grad_norm: 0}",), ("privacy.max_grad_norm", "above 0")),
        (
            ("privacy={noise_multiplier: 1.0, noise_multiplicity: 4}",),
            ("privacy.noise_multiplicity", "single records"),
        ),
        (
            ("privacy={noise_multiplier: 1.0, physical_batch: 4}",),
            ("privacy.physical_batch", "single records"),
        ),
        (("model.network.name=mlpp",), ("model.network", "mlp")),
    ],
)
def test_what_does_not_go_is_refused_at_its_key(overrides: tuple[str, ...], words: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError) as error:
        resolve(DIGITS, overrides, families.recipe_schema)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("data={name: toy2d}",), "makes images; toy2d is vector data"),
        (("data={name: digits, size: 10}", "model.network={name: dcgan}"), "a side that 4 divides"),
    ],
)
def test_data_that_do_not_fit_are_refused(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        module_of(*overrides)


def test_a_share_of_debiasing_below_one_image_is_told() -> None:
    module = module_of("model.debias=0.01")
    with pytest.warns(UserWarning, match="0.01 of 20 generated images is not one"):
        module.prepare_training()


def test_one_call_has_no_steps_solvers_or_guidance(tmp_path: Path, call: Call) -> None:
    run = train(DIGITS, [*TINY, "trainer.max_steps=1"], run_dir=tmp_path / "run").run
    call("sample", run, "--steps", "5").refused(2, "sample.steps", "one call")
    call("sample", run, "--solver", "edm").refused(2, "sample.solver", "one call")


# Runs


def test_a_private_run_end_to_end(tmp_path: Path, call: Call) -> None:
    ended = call("train", DIGITS, *TINY, PRIVATE, "--run-dir", tmp_path / "run", "--json")
    assert ended.code == 0, ended.err
    ledger = Ledger.open(tmp_path / "run" / "ledger.jsonl")
    (phase,) = ledger.phases()
    assert phase.steps == 12
    assert {one.release.name for one in ledger.stretches} == {"image-gradient"}
    expected = RDP().epsilon([phase], 1e-5).epsilon
    assert ended.json["epsilon"] == pytest.approx(expected)
    told = call("privacy-account", tmp_path / "run", "--json").json
    assert told["epsilon"] == pytest.approx(expected)
    drawn = sample(tmp_path / "run", count=30)
    assert drawn.solver == "one-shot"
    assert drawn.path.name.startswith("one-shot-seed0-n30")
    assert drawn.labels is not None
    assert np.bincount(drawn.labels).tolist() == [3] * 10
    exported = call("export", tmp_path / "run", "-o", tmp_path / "out")
    assert exported.code == 0, exported.err
    again = sample(tmp_path / "out", count=30, out=tmp_path / "again.h5")
    assert np.array_equal(again.images, drawn.images)


@pytest.mark.parametrize(
    "privacy", [(), ("privacy={noise_multiplier: 2.0, max_grad_norm: 0.5, debug_seed: 3}",)]
)
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    privacy: tuple[str, ...], tmp_path: Path
) -> None:
    """Bit for bit: without privacy, and with noise that a debug seed makes reproducible."""
    settings = [*TINY, *privacy, "model.network={name: dcgan, channels: 8}"]
    whole = train(DIGITS, settings, run_dir=tmp_path / "whole")
    part = tmp_path / "part"
    # max_steps is part of the plan only as its end: a longer run with the same noise goes on as it began
    train(DIGITS, [*settings, "trainer.max_steps=8"], run_dir=part)
    train(DIGITS, settings, run_dir=part, resume="auto", allow_change=True)
    one, other = (load_weights(path / "model.safetensors")[0] for path in (whole.run, part))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_private_noise_is_never_the_same_twice(tmp_path: Path) -> None:
    runs = [train(DIGITS, [*TINY, PRIVATE], run_dir=tmp_path / str(i)).run for i in range(2)]
    one, other = (load_weights(run / "model.safetensors")[0] for run in runs)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_averaged_weights_get_batch_statistics_of_their_own(tmp_path: Path) -> None:
    """The released generator, in eval mode, has unit variance where BatchNorm says so; the one in training has not."""
    run = train(
        DIGITS,
        [*TINY, "model.network={name: dcgan, channels: 8}", "ema.rule=constant"],
        run_dir=tmp_path / "run",
    )
    model = load_run(run.run)[2].model
    norm = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    given: list[Tensor] = []
    norm.register_forward_hook(lambda layer, inputs, out: given.append(inputs[0]))
    z = torch.rand(4000, 16, generator=torch.Generator().manual_seed(0))
    model(z, torch.arange(4000) % 10)
    torch.testing.assert_close(norm.running_mean, given[0].mean((0, 2, 3)), rtol=0.1, atol=0.01)
    torch.testing.assert_close(norm.running_var, given[0].var((0, 2, 3)), rtol=0.1, atol=0.001)


def test_the_background_is_black_when_asked_for(tmp_path: Path, call: Call) -> None:
    run = train(DIGITS, [*TINY, "trainer.max_steps=1"], run_dir=tmp_path / "run").run
    plain = sample(run, count=10).images
    ended = call("sample", run, "-n", "10", "--set", "threshold_background=true", "-o", tmp_path / "black.h5")
    assert ended.code == 0, ended.err
    read = read_samples(tmp_path / "black.h5")
    assert np.array_equal(read.array, np.where(plain < 128, 0, plain))
    assert read.provenance["sample"]["threshold_background"] is True


@pytest.mark.slow
def test_digits_are_learned(tmp_path: Path) -> None:
    """Nine of ten samples are read as the digit asked for (98 % at 1,000 steps)."""
    from gentool.tasks.evaluate import evaluate

    run = train(DIGITS, ["trainer.max_steps=800"], run_dir=tmp_path / "run").run
    assert evaluate(str(run), metrics=["label-accuracy"]).metrics["label accuracy"] > 0.9
