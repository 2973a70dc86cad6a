"""Campaigns, records and figures: what is judged, counted, kept and said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gentool.attacks.campaign import Campaign, check_clean, victims
from gentool.attacks.forecast import forecast, passes
from gentool.attacks.options import Attack, choose
from gentool.attacks.records import Records
from gentool.attacks.summary import accuracies, gradients, vote, warnings, wilson, worst
from gentool.attacks.threat import Threat
from gentool.errors import CorruptError, UserError
from tests.attacks.victims import Shrinking, linear, logits_of, pictures, purified

PGD = choose("pgd", iterations=4, eot=3)


def campaign(
    attack: Attack = PGD, scale: float = 1.0, draws: int = 4, eps: float = 0.15, **purifier: Any
) -> Campaign:
    weights, bias = linear()
    logits = logits_of(weights, bias, scale)
    defence, surrogate = (purified(weights * scale, bias, Shrinking(**purifier)) for _ in range(2))
    three = victims(attack, logits, defence, sigma=0.3, surrogate=surrogate)
    return Campaign(attack, Threat("linf", eps), three, draws, seed=0)


def labelled(count: int = 12) -> tuple[Tensor, Tensor]:
    weights, bias = linear()
    x = pictures(count)
    return x, logits_of(weights, bias)(2 * x - 1).argmax(1)


# ---- intervals


def test_wilson_intervals_against_the_equation_that_defines_them() -> None:
    """Its ends solve |p - p0| = z sqrt(p0 (1 - p0) / n)."""
    for right, count in ((0, 20), (7, 20), (20, 20), (358.4, 512)):
        found = wilson(right, count)
        p = right / count
        for end in (found["low"], found["high"]):
            if end not in (0.0, 1.0):
                assert abs(p - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / count), rel=1e-5)
        assert found["low"] <= p <= found["high"]
    assert wilson(0, 20)["low"] == 0
    assert wilson(20, 20)["high"] == 1
    wide = wilson(358.4, 512)  # the paper's 512 images at 70 %: about 4 points
    assert 0.035 < (wide["high"] - wide["low"]) / 2 < 0.045


def test_three_ways_to_judge_a_picture() -> None:
    assert (worst([1, 1, 1], 1), worst([1, 1, 2], 1)) == (1, 0)
    assert (vote([1, 1, 2], 1), vote([1, 2, 2, 1], 1), vote([2, 2, 3], 1)) == (1, 0, 0)
    record = {"index": 0, "label": 1, "victims": {"defence": {"clean": [1] * 4, "attacked": [1, 1, 1, 2]}}}
    found = accuracies([record])["defence"]["robust"]
    assert [found[rule]["value"] for rule in ("mean", "worst", "vote")] == [0.75, 0, 1]


# ---- campaigns


@pytest.mark.parametrize("name", ["pgd", "apgd-ce", "apgd-dlr", "bpda", "surrogate", "transfer"])
def test_every_own_attack_harms_all_three_and_keeps_to_the_ball(name: str) -> None:
    attack = choose(name, iterations=5, eot=None if name == "transfer" else 3, defence_steps=5)
    x, label = labelled()
    records, hit = campaign(attack, gain=0.9).run(x, label, list(range(12)))
    found = accuracies(records)
    assert found["none"]["clean"]["mean"]["value"] == 1
    for victim in ("none", "noise", "defence"):
        assert Threat("linf", 0.15).within(hit[victim], x)
        assert found[victim]["robust"]["mean"]["value"] < found[victim]["clean"]["mean"]["value"] - 0.1
        assert found[victim]["robust"]["worst"]["value"] <= found[victim]["robust"]["mean"]["value"]
    same = torch.equal(hit["none"], hit["defence"])
    assert same == (name == "transfer")


def test_what_a_picture_meets_does_not_depend_on_its_batch() -> None:
    x, label = labelled()
    together, _ = campaign().run(x, label, list(range(12)))
    apart = [campaign().run(x[i : i + 1], label[i : i + 1], [i])[0][0] for i in range(12)]
    for a, b in zip(together, apart, strict=True):
        for victim, found in a["victims"].items():
            other = b["victims"][victim]
            assert found["clean"] == other["clean"]
            assert found["attacked"] == other["attacked"]
            assert found["distance"] == pytest.approx(other["distance"], abs=1e-6)


def test_judging_takes_fresh_draws_that_the_attack_never_saw() -> None:
    """The attack's noise and the judge's are of different seeds: an attacker does not know the defender's."""
    seeds = set()

    def spy(x: Tensor, indices: Any, seed: int, *, draw: Any = 0) -> Tensor:
        seeds.add((seed, x.requires_grad))
        return x

    weights, bias = linear()
    three = victims(PGD, logits_of(weights, bias), purified(weights, bias, spy), sigma=0.3)  # type: ignore[arg-type]
    x, label = labelled(3)
    Campaign(PGD, Threat("linf", 0.1), three, 4, 0).run(x, label, [0, 1, 2])
    attacked = {seed for seed, graph in seeds if graph}
    assert len({seed for seed, _ in seeds}) == 2
    assert len(attacked) == 1


def test_masked_gradients_are_told() -> None:
    attack = choose("apgd-ce", iterations=5, eot=2)
    x, label = labelled()
    records, _ = campaign(attack, scale=1e5, spread=0.01, eps=0.01).run(x, label, list(range(12)))
    assert gradients(records, "defence")["zero_share"] > 0.5
    assert any("gradient masking suspected" in line for line in warnings(records, attack, 12))
    open_, _ = campaign(attack).run(x, label, list(range(12)))
    assert gradients(open_, "defence")["zero_share"] == 0
    assert not any("masking" in line for line in warnings(open_, attack, 12))


def test_attacks_that_know_little_and_campaigns_that_are_short_are_told() -> None:
    x, label = labelled()
    weak = choose("transfer", iterations=1)
    records, _ = campaign(weak, eps=1e-4).run(x, label, list(range(12)))
    told = "\n".join(warnings(records, weak, 20))
    for words in ("used no gradient of the defence", "12 of 20 pictures", "threat is too small"):
        assert words in told


def test_passes_of_the_network_are_those_of_the_forecast() -> None:
    for attack in (PGD, choose("apgd-ce", iterations=6, eot=2, restarts=2), choose("transfer", iterations=3)):
        plan = campaign(attack)
        purifier = plan.victims[2].judged.purify  # type: ignore[attr-defined]
        x, label = labelled(3)
        cost = forecast(plan, x, label, [0, 1, 2])
        purifier.seen = 0
        plan.run(x, label, [0, 1, 2])
        climbs, looks = (0, 0) if attack.route == "transfer" else passes(attack, True)
        assert purifier.seen == 3 * (climbs + looks + 2 * plan.draws)
        assert cost.network_calls == 5 * (3 * climbs + looks + 2 * plan.draws)
        assert cost.seconds > 0


# ---- the classifier before the attack


def test_labels_off_by_one_end_the_campaign_before_it_starts() -> None:
    weights, bias = linear(classes=3)
    x, label = labelled(60)
    logits = logits_of(weights, bias)
    assert check_clean(logits, x, label) == []
    with pytest.raises(UserError, match=r"every label -1 .*off by one"):
        check_clean(logits, x, (label + 1) % 3)
    with pytest.raises(UserError, match="counted from 1"):
        check_clean(logits, x, label + 1)


def test_pictures_in_another_range_end_it_too() -> None:
    weights, bias = linear(classes=3)
    x, label = labelled(60)
    with pytest.raises(UserError, match="look like pictures in"):
        check_clean(logits_of(weights, bias), 2 * x - 1, label)


def test_a_classifier_at_chance_is_refused_without_a_guess() -> None:
    x, label = labelled(60)
    with pytest.raises(UserError, match="is it a classifier of these data"):
        check_clean(lambda z: torch.eye(9)[torch.full((len(z),), 7)], x, label)


def test_a_classifier_of_probabilities_is_told() -> None:
    weights, bias = linear(classes=3)
    x, label = labelled(60)
    told = check_clean(lambda z: logits_of(weights, bias)(z).softmax(1), x, label)
    assert "look like probabilities" in told[0]


# ---- records


def test_records_go_on_after_a_crash_and_refuse_another_campaign(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    first = Records.open(path, {"seed": 0, "eps": 0.1})
    first.add([{"index": 4}, {"index": 2}])
    with path.open("ab") as file:
        file.write(b'{"index": 9, "lab')  # the kill came here
    again = Records.open(path, {"seed": 0, "eps": 0.1})
    assert again.done() == {2, 4}
    again.add([{"index": 9}])
    assert [r["index"] for r in Records.open(path, {"seed": 0, "eps": 0.1}).pictures] == [4, 2, 9]
    with pytest.raises(UserError, match=r"another campaign \(eps: 0.1, now 0.2\)"):
        Records.open(path, {"seed": 0, "eps": 0.2})
    path.write_bytes(path.read_bytes().replace(b'"index":2', b'"index":3'))
    with pytest.raises(CorruptError, match="line 3"):
        Records.open(path, {"seed": 0, "eps": 0.1})
