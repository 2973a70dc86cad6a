"""The plan: what a `privacy:` block comes to, what it keeps when a run goes on, and what is refused where."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gentool import families
from gentool.data.config import make_config
from gentool.errors import BudgetError, RecipeError, UserError
from gentool.privacy.mechanisms import Phase, SampledGaussian
from gentool.privacy.plan import Plan, plan
from gentool.privacy.rdp import RDP
from gentool.recipes.resolve import Resolved, resolve
from gentool.recipes.schema import Privacy

RECIPE = """\
family: edm
data: {name: mnist, batch_size: 4096}
model:
  network: {name: film-mlp, width: 32, blocks: 1}
  process: {name: edm}
privacy:
  epsilon: 10
  delta: 1.0e-5
trainer:
  max_steps: 4500
"""


def settled(**block: Any) -> Plan:
    """At DPDM's scale on MNIST."""
    return plan(Privacy(**block), 4096, 4500, 60000)


@pytest.mark.parametrize(
    ("epsilon", "noise"), [(10.0, 2.48703), (1.0, 18.13278), (0.2, 80.18469)], ids=["10", "1", "0.2"]
)
def test_dpdm_on_mnist_gets_the_published_noise(epsilon: float, noise: float) -> None:
    """The calibrated rows of the golden table, and never more than the target."""
    made = settled(epsilon=epsilon, delta=1e-5, sample_rate="1/15")
    assert made.noise_multiplier == pytest.approx(noise, rel=1e-5)
    assert made.epsilon() <= epsilon
    assert (made.sample_rate, made.expected_batch) == (1 / 15, 4000)
    assert "4000 records on average" in made.notes[0]


def test_the_rate_is_the_batch_over_the_public_records_exactly() -> None:
    made = settled(noise_multiplier=1.0)
    assert (made.sample_rate, made.expected_batch, made.records) == (4096 / 60000, 4096, 60000)
    assert settled(noise_multiplier=1.0, records=50000).sample_rate == 4096 / 50000


def test_a_batch_larger_than_the_data_is_all_of_it_and_says_so() -> None:
    made = settled(noise_multiplier=1.0, records=1000)
    assert (made.sample_rate, made.expected_batch) == (1.0, 1000)
    assert "every step uses all of them" in made.notes[0]


@pytest.mark.parametrize(
    ("records", "delta"),
    [(60000, 1e-6), (1797, 1e-5), (10, 1e-2), (100, 1e-3), (1281167, 1e-8), (99999, 1e-6)],
)
def test_the_default_delta_is_a_power_of_ten_of_at_most_a_tenth_of_one_over_n(
    records: int, delta: float
) -> None:
    made = plan(Privacy(noise_multiplier=1.0), 5, 10, records)
    assert made.delta == delta
    assert delta <= 1 / (10 * records) < 10 * delta * (1 + 1e-12)


def test_a_delta_above_one_over_n_is_warned_of() -> None:
    assert "published outright" in settled(noise_multiplier=1.0, delta=1e-4).notes[0]
    assert settled(noise_multiplier=1.0, delta=1e-5).notes == ()


def test_phases_known_in_advance_are_part_of_the_target() -> None:
    histogram = (Phase(SampledGaussian(10.0), 1),)
    privacy = Privacy(epsilon=10.0, delta=1e-5, sample_rate="1/15")
    made = plan(privacy, 4000, 4500, 60000, histogram)
    assert 9.99 < made.epsilon(histogram) <= 10
    assert made.noise_multiplier > settled(epsilon=10.0, delta=1e-5, sample_rate="1/15").noise_multiplier  # type: ignore[operator]


def test_going_on_keeps_the_noise_and_a_change_is_calibrated_for_what_is_left() -> None:
    first = settled(epsilon=1.0, delta=1e-5, sample_rate="1/15")
    spent = first.release.phases(2000)

    def on(steps: int = 4500, **block: Any) -> Plan:
        block = {"epsilon": 1.0, "delta": 1e-5, "sample_rate": "1/15"} | block
        return plan(Privacy(**block), 4096, steps, 60000, spent, first_step=2000, previous=first)

    assert on() == first
    assert on(max_grad_norm=0.5, noise_multiplicity=4).noise_multiplier == first.noise_multiplier
    for changed in (on(epsilon=2.0), on(steps=9000), on(sample_rate="1/30")):
        assert changed.noise_multiplier != first.noise_multiplier
        assert changed.first_step == 2000
        assert 0.999 * changed.target_epsilon < changed.epsilon(spent) <= changed.target_epsilon  # type: ignore[operator]


def test_a_spent_target_is_a_matter_of_budget() -> None:
    spent = settled(epsilon=2.0).release.phases(4500)
    with pytest.raises(BudgetError, match="above the target of 1"):
        plan(Privacy(epsilon=1.0), 4096, 9000, 60000, spent, first_step=4500)
    with pytest.raises(
        BudgetError, match="no budget is left"
    ):  # the target is reached, and more steps asked for
        plan(Privacy(epsilon=2.0), 4096, 9000, 60000, spent, first_step=4500, previous=settled(epsilon=2.0))


def test_without_noise_the_plan_protects_nobody() -> None:
    made = settled(enabled=False, epsilon=1.0)
    assert (made.noise_multiplier, made.target_epsilon, made.epsilon()) == (None, None, float("inf"))
    assert "no noise" in str(made.not_private())
    assert "seed" in str(settled(noise_multiplier=1.0, debug_seed=0).not_private())
    assert settled(noise_multiplier=1.0).not_private() is None


def test_a_plan_survives_json() -> None:
    made = settled(epsilon=10.0, sample_rate="1/15")
    assert Plan.read(made.document()) == made
    assert Plan.read(made.document() | {"later": 1}) == made


def test_the_lines_tell_every_figure_before_training() -> None:
    text = "\n".join(settled(epsilon=10.0, delta=1e-5, sample_rate="1/15").lines())
    for word in (
        "epsilon 10",
        "1e-05",
        "2.48703",
        "0.0666667",
        "4000 expected",
        "60000 records",
        "4500 steps",
    ):
        assert word in text


def test_epsilon_out_of_reach_tells_the_noise_needed_and_what_can_be_reached() -> None:
    with pytest.raises(UserError) as told:
        settled(epsilon=0.01)
    phases = [Phase(SampledGaussian(1000.0, 4096 / 60000), 4500)]
    reach = RDP().epsilon(phases, 1e-6).epsilon
    assert f"smallest epsilon that 1000 reaches is {reach:.3g}" in told.value.message
    assert told.value.where == "privacy.epsilon"
    needed = float(told.value.message.split("multiplier of ")[1].split(",")[0])
    again = [Phase(SampledGaussian(needed * 1.0001, 4096 / 60000), 4500)]
    assert RDP().epsilon(again, 1e-6).epsilon <= 0.01


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("mnist", {}, 60000),
        ("fashion-mnist", {"limit": 1000}, 1000),
        ("mnist", {"held_out": 0.1}, 54000),
        ("cifar10", {}, 50000),
        ("digits", {}, 1438),
        ("toy2d", {"count": 500}, 500),
        ("mnist", {"classes": [0, 1]}, None),
        ("npz", {"path": "x.npz"}, None),
    ],
)
def test_data_sets_declare_their_public_size(name: str, options: dict[str, Any], count: int | None) -> None:
    assert make_config(name, options).public_records() == count


def test_the_declared_size_is_that_of_the_training_split_but_for_rounding() -> None:
    from gentool.data import open_set

    digits = make_config("digits", {})
    declared = digits.public_records()
    assert declared is not None
    assert abs(len(open_set(digits, "train")) - declared) <= 5  # half a record a class


class TestRecipe:
    """Faults of the block are told at the line of the key in the way, before any training."""

    @pytest.fixture
    def check(self, tmp_path: Path) -> Any:
        def resolved(*overrides: str, text: str = RECIPE) -> Resolved:
            (tmp_path / "r.yaml").write_text(text)
            return resolve(tmp_path / "r.yaml", overrides, families.recipe_schema)

        return resolved

    def test_the_block_resolves_and_its_text_resolves_again(self, check: Any) -> None:
        resolved = check("privacy.sample_rate=1/15")
        assert check(text=resolved.text).recipe == resolved.recipe
        assert resolved.recipe.privacy.rate() == 1 / 15
        assert resolved.origins["privacy.epsilon"].endswith("r.yaml:7:12")

    @pytest.mark.parametrize(
        ("overrides", "words"),
        [
            (["trainer.accumulate=2"], ["trainer.accumulate: ", "physical_batch"]),
            (["privacy.epsilon=0.01"], ["privacy.epsilon: ", "smallest epsilon"]),
            (["privacy.noise_multiplier=2"], ["r.yaml:7:3 privacy: ", "got both"]),
            (["~privacy.epsilon"], ["r.yaml:7:3 privacy: ", "got neither"]),
            (["privacy={}"], ["privacy: ", "got neither"]),
            (
                ["~privacy.epsilon", "privacy.noise_multiplier=0"],
                ["privacy.noise_multiplier: ", "enabled: false"],
            ),
            (["privacy.sample_rate=1.5"], ["privacy.sample_rate: ", "at most 1"]),
            (["privacy.sample_rate=3/2"], ["privacy.sample_rate: ", "at most 1"]),
            (["privacy.sample_rate=1/0"], ["privacy.sample_rate: "]),
            (["privacy.sample_rate=many"], ["privacy.sample_rate: ", "1/15"]),
            (["privacy.delta=1"], ["privacy.delta: ", "below 1"]),
            (["privacy.delta=0"], ["privacy.delta: ", "above 0"]),
            (["privacy.epsilon=-1"], ["privacy.epsilon: ", "above 0"]),
            (["privacy.max_grad_norm=0"], ["privacy.max_grad_norm: "]),
            (["privacy.noise_multiplicity=0"], ["privacy.noise_multiplicity: "]),
            (["privacy.accountant=prv"], ["privacy.accountant: ", "rdp, pld"]),
            (["privacy.engine=ghost"], ["privacy.engine: ", "vmap, microbatch, opacus"]),
            (["privacy.adjacency=replace"], ["privacy.adjacency: unknown key"]),
            (["data={name: npz, path: x.npz}"], ["privacy.records: ", "state the public number"]),
            (["privacy.epsilon=1e9"], ["privacy.epsilon: ", "hardly any noise"]),
        ],
        ids=lambda v: " ".join(v) if v and "=" in v[0] else None,
    )
    def test_what_cannot_be_kept_is_refused(
        self, overrides: Sequence[str], words: list[str], check: Any
    ) -> None:
        with pytest.raises(RecipeError) as told:
            check(*overrides)
        for word in words:
            assert word in str(told.value)

    def test_the_place_is_the_line_of_the_file(self, check: Any) -> None:
        with pytest.raises(RecipeError, match=r"r\.yaml:11:15 trainer\.accumulate: "):
            check(text=RECIPE + "  accumulate: 2\n")
        with pytest.raises(RecipeError, match=r"r\.yaml:7:12 privacy\.epsilon: "):
            check(text=RECIPE.replace("epsilon: 10", "epsilon: 0.01"))

    def test_a_target_may_stay_where_privacy_is_switched_off(self, check: Any) -> None:
        assert check("privacy.enabled=false", "privacy.noise_multiplier=1").recipe.privacy.enabled is False

    def test_stating_the_records_is_enough_for_data_of_ones_own(self, check: Any) -> None:
        resolved = check("data={name: npz, path: x.npz, batch_size: 10}", "privacy.records=5000")
        assert resolved.recipe.privacy.records == 5000
