"""What a user says of an attack, checked before anything is computed."""

from __future__ import annotations

import pytest
import torch

from gentool.attacks.options import ATTACKS, check_eps, choose, parse_eps
from gentool.attacks.threat import Threat, check_pictures
from gentool.errors import UserError


def test_a_radius_as_a_fraction_or_a_number() -> None:
    assert parse_eps("8/255", "linf") == 8 / 255
    assert parse_eps(" 0.03 ", "linf") == 0.03
    assert parse_eps("1.5", "l2") == 1.5


@pytest.mark.parametrize(
    ("text", "norm", "words"),
    [
        ("8", "linf", "did you mean 8/255"),
        ("16.0", "linf", "did you mean 16/255"),
        ("128", "l2", "did you mean 128/255"),
        ("0", "linf", "positive"),
        ("-0.1", "l2", "positive"),
        ("eight", "linf", "such as 8/255"),
        ("8/0", "linf", "such as 8/255"),
        ("nan", "linf", "such as 8/255"),
        ("0.1", "l1", "did you mean l2|there are: linf, l2"),
    ],
)
def test_a_radius_in_other_units_is_refused_with_the_one_meant(text: str, norm: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_eps(text, norm)


def test_a_threat_checks_its_radius_too() -> None:
    with pytest.raises(UserError, match="did you mean 8/255"):
        Threat("linf", 8)
    with pytest.raises(UserError, match="positive"):
        check_eps("linf", float("inf"))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.full((1, 1, 2, 2), -0.5), "look like pictures in"),
        (torch.full((1, 1, 2, 2), 200.0), "look like bytes"),
        (torch.full((1, 1, 2, 2), -700.0), "from -700 to -700$"),
        (torch.full((1, 1, 2, 2), float("nan")), "not finite"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), "divide by 255"),
    ],
)
def test_pictures_in_another_range_are_refused(x: torch.Tensor, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_pictures(x, "input")


def test_published_settings_and_what_differs_from_them() -> None:
    assert choose("apgd-ce") == ATTACKS["apgd-ce"]
    assert (ATTACKS["apgd-ce"].iterations, ATTACKS["apgd-ce"].eot) == (100, 20)
    assert (ATTACKS["bpda"].iterations, ATTACKS["bpda"].eot, ATTACKS["bpda"].random_start) == (50, 15, False)
    mine = choose(
        "apgd-dlr", route="surrogate", iterations=7, eot=2, restarts=3, surrogate_steps=4, defence_steps=10
    )
    assert (mine.iterations, mine.eot, mine.restarts, mine.gradient) == (7, 2, 3, "surrogate(4)")
    assert choose("surrogate", defence_steps=100).surrogate_steps == 20
    assert choose("pgd", route="transfer").eot == 1


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("pdg", {}, "did you mean pgd"),
        ("pgd", {"iterations": 0}, "--iterations must be at least 1"),
        ("pgd", {"eot": 0}, "--eot must be at least 1"),
        ("pgd", {"restarts": -1}, "--restarts must be at least 1"),
        ("pgd", {"route": "adjoint"}, "there are exact, bpda, surrogate, transfer"),
        ("square", {"route": "bpda"}, "is not told where its gradients come from"),
        ("pgd", {"surrogate_steps": 5}, "add --gradient surrogate"),
        ("surrogate", {"surrogate_steps": 10, "defence_steps": 10}, "a surrogate takes fewer"),
        ("surrogate", {"surrogate_steps": 0, "defence_steps": 10}, "at least 1"),
        ("transfer", {"eot": 5}, "nothing to average"),
        ("autoattack", {"restarts": 2}, "restarts of its own"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    name: str, options: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        choose(name, **options)  # type: ignore[arg-type]
