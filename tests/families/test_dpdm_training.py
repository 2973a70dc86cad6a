"""DPDM trained through the command line: what a record may do, what the ledger says, what may change."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from gentool import families
from gentool.data import open_set
from gentool.errors import UserError
from gentool.privacy.gradients.engines import ENGINES
from gentool.privacy.ledger import Ledger
from gentool.recipes.resolve import resolve
from gentool.runs.weights import load_weights
from gentool.tasks.model.build import build_module
from gentool.tasks.sample import sample
from gentool.tasks.train import Trained, train
from gentool.training.module import Examples, GenModule

RECIPE = "dpdm/digits-small"
SHORT = ("trainer.max_steps=6", "trainer.checkpoint_every=2", "data.batch_size=40", "model.network.width=16")


def module_of() -> GenModule:
    recipe = resolve(RECIPE, ["model.network.width=16"], families.recipe_schema).recipe
    module = build_module(recipe, open_set(recipe.data, "train").spec)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return module


def examples(module: GenModule, count: int, draws: int) -> Examples:
    data = open_set(module.recipe.data, "train").take(range(count))
    x0 = data.x.float() / 127.5 - 1
    u, noise = module.loss.draw(count, x0.shape[1:], torch.Generator().manual_seed(1), draws=draws)  # type: ignore[operator]
    return {"x0": x0, "label": data.label, "u": u, "noise": noise}


def one_draw(found: Examples, k: int) -> Examples:
    return found | {"u": found["u"][:, k : k + 1], "noise": found["noise"][:, k : k + 1]}


@pytest.mark.parametrize("engine", ["layers", "vmap"])
def test_a_record_is_clipped_once_after_its_draws_are_averaged(engine: str) -> None:
    module, draws = module_of(), 4
    found = examples(module, 1, draws)
    compute = ENGINES[engine](module, module.losses)
    singles = torch.stack([compute(one_draw(found, k), math.inf, 1).total for k in range(draws)])
    average = singles.mean(0)
    clip = 0.5 * float(average.norm())
    got = compute(found, clip, 1)
    torch.testing.assert_close(got.norms[0], average.norm(), rtol=1e-3, atol=0.0)
    torch.testing.assert_close(got.total, average * clip / average.norm(), rtol=1e-3, atol=1e-3 * clip)
    clipped_first = (singles * (clip / singles.norm(dim=1, keepdim=True)).clamp(max=1)).mean(0)
    assert float((got.total - clipped_first).norm()) > 0.05 * clip  # the other order is another estimator


def test_removing_a_record_moves_the_sum_by_no_more_than_the_clipping_norm() -> None:
    module = module_of()
    found = examples(module, 6, 4)
    compute, clip = ENGINES["layers"](module, module.losses), 0.3
    everyone = compute(found, clip, 6)
    assert float(everyone.norms.max()) > clip
    for i in range(6):
        without = {name: torch.cat([rows[:i], rows[i + 1 :]]) for name, rows in found.items()}
        assert float((everyone.total - compute(without, clip, 5).total).norm()) <= clip * (1 + 1e-4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(RECIPE, SHORT, run_dir=tmp_path_factory.mktemp("dpdm") / "run")


def test_a_run_accounts_for_its_steps(run: Trained) -> None:
    (phase,) = Ledger.open(run.run / "ledger.jsonl").phases()
    assert phase.steps == 6
    assert run.epsilon is not None
    assert 0.99 * 10 < run.epsilon <= 10


def test_the_averaged_weights_are_what_samples_come_from(run: Trained) -> None:
    tensors, told = load_weights(run.run / "model.safetensors")
    assert told["weights"] == "ema"
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    drawn = sample(run.run, count=20, settings={"steps": 3})
    assert drawn.nfe == 4
    assert drawn.labels is not None
    assert drawn.labels.tolist() == [*range(10), *range(10)]  # all classes alike


def resumed(run: Path, *changes: str, allow: bool = True) -> Trained:
    steps = ("trainer.max_steps=8",)
    return train(RECIPE, (*SHORT, *changes, *steps), run_dir=run, resume="auto", allow_change=allow)


def test_another_number_of_draws_changes_nothing_that_is_accounted(tmp_path: Path) -> None:
    noise = "privacy={noise_multiplier: 2.0, delta: 1.0e-5, noise_multiplicity: 4}"
    more = "privacy={noise_multiplier: 2.0, delta: 1.0e-5, noise_multiplicity: 2}"
    train(RECIPE, (*SHORT, noise), run_dir=tmp_path / "run")
    with pytest.raises(UserError, match="noise_multiplicity"):
        resumed(tmp_path / "run", more, allow=False)
    resumed(tmp_path / "run", more)
    (phase,) = Ledger.open(tmp_path / "run" / "ledger.jsonl").phases()
    assert phase.steps == 8


def test_another_noise_is_a_phase_of_its_own(tmp_path: Path) -> None:
    train(RECIPE, (*SHORT, "privacy={noise_multiplier: 2.0, delta: 1.0e-5}"), run_dir=tmp_path / "run")
    resumed(tmp_path / "run", "privacy={noise_multiplier: 3.0, delta: 1.0e-5}")
    phases = Ledger.open(tmp_path / "run" / "ledger.jsonl").phases()
    assert sorted((phase.mechanism.noise_multiplier, phase.steps) for phase in phases) == [(2.0, 6), (3.0, 2)]


def test_without_privacy_it_is_the_same_training_and_says_so(tmp_path: Path) -> None:
    done = train(
        RECIPE, (*SHORT, "privacy={enabled: false, noise_multiplicity: 2}"), run_dir=tmp_path / "run"
    )
    assert done.epsilon is None
    assert "not private" in (tmp_path / "run" / "README.md").read_text().lower()


def test_an_epsilon_out_of_reach_names_what_can_be_reached() -> None:
    with pytest.raises(UserError) as caught:
        train("dpdm/mnist-eps10-paper", ["privacy.epsilon=0.01"])
    assert "privacy.epsilon" in str(caught.value)
    assert "needs a noise multiplier" in str(caught.value)
    assert "the smallest epsilon that 1000 reaches is" in str(caught.value)


def test_a_batch_above_the_records_is_all_of_them() -> None:
    from gentool.privacy.plan import plan

    recipe: Any = resolve(RECIPE, ["data.batch_size=5000"], families.recipe_schema).recipe
    made = plan(recipe.privacy, 5000, 200, recipe.data.public_records())
    assert made.sample_rate == 1
    assert "more than the 1438 records" in made.notes[0]
