"""The ledger: never below what was taken, whatever is killed when, and exact where nothing is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gentool.errors import BudgetError, CorruptError, UserError
from gentool.privacy.account import account_of
from gentool.privacy.calibrate import find_steps
from gentool.privacy.ledger import MOST_LINES, Ledger, stretch
from gentool.privacy.mechanisms import Phase, Release, SampledGaussian
from gentool.privacy.plan import Plan, plan
from gentool.privacy.rdp import RDP
from gentool.recipes.schema import Privacy

STEPS = 40
NOISES = (1.0, 2.0)


def made(noise: float = 1.0, **other: object) -> Plan:
    return plan(Privacy(noise_multiplier=noise, delta=1e-5, **other), 64, STEPS, 1000)  # type: ignore[arg-type]


def counted(ledger: Ledger) -> dict[float, int]:
    found: dict[float, int] = dict.fromkeys(NOISES, 0)
    for phase in ledger.phases():
        found[phase.mechanism.noise_multiplier] += phase.steps
    return found


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_sequence_of_lives_under_counts(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Each life reserves stretches of any length, takes some of their steps, and is killed (the file cut anywhere
    behind what was acknowledged) or settles; the next goes on from any step that was taken, with any noise."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    taken = dict.fromkeys(NOISES, 0)
    over, place = 0, 0
    for _ in range(data.draw(st.integers(1, 5), label="lives")):
        ledger = Ledger.start(path)
        noise = data.draw(st.sampled_from(NOISES))
        release = made(noise).release
        step = end = data.draw(st.integers(0, place), label="from the checkpoint")
        for _ in range(data.draw(st.integers(0, 4), label="stretches")):
            count = data.draw(st.integers(1, 4))
            ledger.reserve(release, end, count)
            end += count
            done = data.draw(st.integers(0, end - step), label="steps taken") if step < end else 0
            taken[noise] += done
            step += done
        safe = path.stat().st_size
        if data.draw(st.booleans(), label="settles"):
            ledger.settle(step)
            if data.draw(st.booleans(), label="killed while it settles"):
                cut = data.draw(st.integers(safe, path.stat().st_size))
                whole = cut == path.stat().st_size or cut == path.stat().st_size - 1
                path.write_bytes(path.read_bytes()[:cut])
                over += 0 if whole else end - step
        else:
            over += end - step
            torn = data.draw(st.binary(max_size=30).filter(lambda b: b"\n" not in b), label="torn")
            path.write_bytes(path.read_bytes() + torn)
        place = max(place, step)
        found = counted(Ledger.open(path))
        assert all(found[noise] >= taken[noise] for noise in NOISES)
        assert sum(found.values()) == sum(taken.values()) + over  # and no more than what was reserved in vain


@pytest.mark.parametrize("steps", [1, 7, 40, 3 * MOST_LINES + 1])
def test_an_uninterrupted_run_is_exact_and_a_killed_one_over_counts_less_than_a_stretch(
    steps: int, tmp_path: Path
) -> None:
    if steps > 100:  # the law of the stretch, without its ten thousand lines
        assert stretch(steps) == 4
        assert stretch(MOST_LINES) == 1
        return
    ledger, release = Ledger.start(tmp_path / "l"), made().release
    for step in range(steps):
        ledger.cover(release, step, steps)
        assert step + 1 <= counted(Ledger.open(tmp_path / "l"))[1.0] < step + 1 + stretch(steps)
    ledger.settle(steps)
    assert Ledger.open(tmp_path / "l").phases() == (Phase(SampledGaussian(1.0, 0.064), steps),)
    assert Ledger.open(tmp_path / "l").unsettled == 0


def test_stretches_of_several_steps_end_with_the_training_and_are_given_back(tmp_path: Path) -> None:
    ledger, release = Ledger.start(tmp_path / "l"), made().release
    total = 2 * MOST_LINES - 1
    ledger.cover(release, total - 3, total)
    ledger.cover(release, total - 2, total)
    ledger.cover(release, total - 1, total)
    assert [(one.first, one.count) for one in ledger.stretches] == [(total - 3, 2), (total - 1, 1)]
    ledger.settle(total - 2)
    assert counted(Ledger.open(tmp_path / "l"))[1.0] == 1


def test_resumed_at_2000_of_4500_costs_what_4500_cost(tmp_path: Path) -> None:
    """Row C4 of the golden table, to the last bit; and what remains is what the plan has left."""
    whole = plan(Privacy(epsilon=1.0, delta=1e-5, sample_rate="1/15"), 4000, 4500, 60000)
    ledger = Ledger.start(tmp_path / "l")
    ledger.adopt(whole)
    ledger.reserve(whole.release, 0, 2000)
    ledger.settle(2000)
    again = Ledger.start(tmp_path / "l")
    assert again.remaining(whole) == 2500
    again.reserve(whole.release, 2000, 2500)
    again.settle(4500)
    assert account_of(again, whole).epsilon == RDP().epsilon(whole.release.phases(4500), 1e-5).epsilon <= 1.0
    assert again.remaining(whole) == 0
    again.reserve(whole.release, 4500, 1)
    with pytest.raises(BudgetError, match="above the target"):
        again.remaining(whole)


def test_steps_taken_again_after_a_kill_are_paid_again(tmp_path: Path) -> None:
    whole = plan(Privacy(epsilon=1.0, delta=1e-5, sample_rate="1/15"), 4000, 4500, 60000)
    ledger = Ledger.start(tmp_path / "l")
    ledger.reserve(whole.release, 0, 1000)  # killed; the checkpoint is of step 900
    again = Ledger.start(tmp_path / "l")
    again.reserve(whole.release, 900, 50)
    assert Ledger.open(tmp_path / "l").phases()[0].steps == 1050
    assert "up to 1050 of its steps" in account_of(again, whole).remarks[0]
    assert again.remaining(whole) == 3450


def test_releases_of_all_kinds_compose_and_settling_leaves_them(tmp_path: Path) -> None:
    """Row C3: a noisy label histogram before the steps, and an image gradient of sensitivity 2 C."""
    ledger = Ledger.start(tmp_path / "l")
    ledger.record(Release("label-histogram", 10.0))
    dpsgd = Release("dp-sgd", 2.48779296875, 1 / 15, 1.0)
    ledger.reserve(dpsgd, 0, 4500)
    ledger.settle(4500)
    assert RDP().epsilon(Ledger.open(tmp_path / "l").phases(), 1e-5).epsilon == pytest.approx(
        10.0129, abs=1e-3
    )
    ledger.reserve(Release("image-gradient", 1.1, 50 / 60000, 2 * 0.5), 4500, 10)
    ledger.settle(4500)
    assert [one.release.name for one in Ledger.open(tmp_path / "l").stretches] == [
        "label-histogram",
        "dp-sgd",
    ]


def test_the_file_names_everything_an_auditor_asks(tmp_path: Path) -> None:
    ledger = Ledger.start(tmp_path / "l", {"recipe": "r"})
    ledger.adopt(made(max_grad_norm=0.5))
    ledger.reserve(made(max_grad_norm=0.5).release, 0, 1)
    text = (tmp_path / "l").read_text()
    for word in (
        "one record",
        "add or remove",
        '"name":"dp-sgd"',
        '"noise_multiplier":1.0',
        '"sample_rate":0.064',
    ):
        assert word in text
    assert '"sensitivity":0.5' in text
    again = Ledger.open(tmp_path / "l")
    assert (again.header["recipe"], again.plan, again.head) == ("r", ledger.plan, ledger.head)


def test_a_plan_is_written_once_until_it_changes(tmp_path: Path) -> None:
    ledger = Ledger.start(tmp_path / "l")
    for noise in (1.0, 1.0, 2.0):
        ledger.adopt(made(noise))
        ledger = Ledger.start(tmp_path / "l")
    assert [one.noise_multiplier for one in ledger.plans] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("plan_of", "why"),
    [(made(debug_seed=1), "debug_seed"), (made(enabled=False), "enabled is false")],
    ids=["debug seed", "no noise"],
)
def test_what_protects_nobody_says_so_for_ever(plan_of: Plan, why: str, tmp_path: Path) -> None:
    ledger = Ledger.start(tmp_path / "l")
    ledger.adopt(plan_of)
    ledger.reserve(plan_of.release, 0, 3)
    ledger.adopt(made(2.0))
    ledger.reserve(made(2.0).release, 3, 1)
    again = Ledger.open(tmp_path / "l")
    account = account_of(again, made(2.0))
    assert account.epsilon == float("inf")
    assert account.document()["epsilon"] is None
    assert account.text().startswith("NOT PRIVATE: ")
    assert why.split()[0] in account.text() or "without noise" in account.text()
    assert again.steps == 4


def test_steps_out_of_order_or_not_reserved_are_defects(tmp_path: Path) -> None:
    ledger, release = Ledger.start(tmp_path / "l"), made().release
    ledger.reserve(release, 5, 5)
    for first, count in ((9, 1), (11, 1), (10, 0)):
        with pytest.raises(ValueError, match="do not follow"):
            ledger.reserve(release, first, count)
    with pytest.raises(ValueError, match="outside what was reserved"):
        ledger.settle(11)
    ledger.settle(8)
    with pytest.raises(ValueError, match="outside what was reserved"):
        ledger.settle(7)
    ledger.reserve(release, 8, 1)
    assert counted(Ledger.open(tmp_path / "l"))[1.0] == 4


def test_a_process_that_took_no_step_settles_nothing(tmp_path: Path) -> None:
    Ledger.start(tmp_path / "l").reserve(made().release, 0, 7)
    again = Ledger.start(tmp_path / "l")
    again.settle(0)
    assert counted(Ledger.open(tmp_path / "l"))[1.0] == 7


def test_without_a_ledger_nothing_is_known(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no ledger"):
        Ledger.open(tmp_path / "l")


@pytest.mark.parametrize("torn", [b"", b'{"ledger":1,"id'], ids=["empty", "half a header"])
def test_a_ledger_killed_at_its_first_line_is_nothing_yet_and_starts_again(
    torn: bytes, tmp_path: Path
) -> None:
    (tmp_path / "l").write_bytes(torn)
    with pytest.raises(UserError, match="ledger is empty"):
        Ledger.open(tmp_path / "l")
    Ledger.start(tmp_path / "l").reserve(made().release, 0, 1)
    assert counted(Ledger.open(tmp_path / "l"))[1.0] == 1


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"ledger": 2}, "format 2"),
        ({"reserve": {}}, "one header"),
        ({"ledger": 1}, "'id'"),
        ({"ledger": 1, "id": "x"}, None),
    ],
)
def test_a_file_that_is_no_ledger_is_told(
    record: dict[str, object], what: str | None, tmp_path: Path
) -> None:
    from gentool.runs.journal import Journal

    journal = Journal(tmp_path / "l")
    journal.append(record)
    if what is None:
        journal.append({"wrong": 1})
        what = "unknown kind 'wrong'"
    with pytest.raises(CorruptError, match=what):
        Ledger.open(tmp_path / "l")


def test_remaining_equals_what_calibration_counts(tmp_path: Path) -> None:
    target = replace(made(), target_epsilon=3.0)
    ledger = Ledger.start(tmp_path / "l")
    assert ledger.remaining(target) == find_steps(3.0, 1e-5, SampledGaussian(1.0, 0.064))
    assert ledger.remaining(made()) is None  # no target, no end
