"""The formula's grammar: what it means, and where it is wrong."""

from __future__ import annotations

import math

import pytest
import torch

from gentool.errors import UserError
from gentool.families.lace.energy import Operators, continuous, discrete, term_log_prob, truth
from gentool.families.lace.formula import (
    And,
    Attribute,
    FormulaError,
    Node,
    Not,
    Or,
    Term,
    contradictions,
    parse,
    terms,
)

KNOWN = {
    "digit": Attribute(tuple(map(str, range(10)))),
    "slant": Attribute((), -0.3, 0.4),
    "thick": Attribute(("no", "yes")),
    "hair-colour": Attribute(("black", "blond", "gray")),
}
D7, S7, THICK = Term("digit", 7), Term("slant", 0.7), Term("thick", 1)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("digit=7 and slant=0.7 and not thick", And(And(D7, S7), Not(THICK))),
        ("digit=7 or slant=.7 and thick", Or(D7, And(S7, THICK))),
        ("(digit=7 or slant=0.7) and thick=yes", And(Or(D7, S7), THICK)),
        ("not digit=7 and thick", And(Not(D7), THICK)),
        ("not (digit=7 and thick)", Not(And(D7, THICK))),
        ("not not thick", Not(Not(THICK))),
        ("  hair-colour = blond  ", Term("hair-colour", 1)),
        ("slant=1e-1", Term("slant", 0.1)),
        ("thick=0", Term("thick", 0)),
    ],
)
def test_meaning(text: str, tree: Node) -> None:
    """`not` binds closer than `and`, `and` than `or`; what a tree prints is a formula for the same tree."""
    assert parse(text, KNOWN) == tree
    assert parse(str(tree), KNOWN) == tree


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("", 1, "empty"),
        ("   ", 1, "empty"),
        ("digt=3", 1, "did you mean digit?"),
        ("thick and smile", 11, "unknown attribute 'smile'"),
        ("digit=12", 7, "digit takes 0 to 9, not 12"),
        ("digit=-1", 7, "not -1"),
        ("digit=1.5", 7, "not 1.5"),
        ("hair-colour=red", 13, "0 to 2 (black, blond, gray), not red"),
        ("slant=1.5", 7, "a number from 0 to 1 (in the data -0.3 to 0.4), not 1.5"),
        ("slant>0.5", 6, "knows no '>'"),
        ("slant", 1, "needs a value"),
        ("digit=", 7, "expected a value"),
        ("digit=and", 7, "expected a value"),
        ("(digit=3", 1, "never closed"),
        ("thick or (digit=3 and (slant=1)", 10, "never closed"),
        ("digit=3)", 8, "never opened"),
        ("digit=3 thick", 9, "expected and, or, or the end"),
        ("digit=3 and", 12, "expected an attribute"),
        ("and thick", 1, "expected an attribute, not 'and'"),
        ("thick and or digit=1", 11, "expected an attribute, not 'or'"),
        ("digit=3 & thick", 9, "not '&'"),
    ],
)
def test_mistakes_point_at_their_column(text: str, column: int, words: str) -> None:
    with pytest.raises(FormulaError) as caught:
        parse(text, KNOWN)
    assert words in caught.value.message
    assert caught.value.where == f"formula, column {column}"
    assert caught.value.message.splitlines()[-1].index("^") == column + 1  # two blanks before
    assert isinstance(caught.value, UserError)


def test_contradictions_are_those_that_and_joins() -> None:
    def found(text: str) -> list[str]:
        return contradictions(parse(text, KNOWN))

    assert found("digit=1 and thick and digit=2") == ["digit=1 and digit=2 cannot both be"]
    assert found("digit=1 or digit=2") == []
    assert found("digit=1 and not digit=2") == []
    assert found("digit=1 and thick and digit=1") == []


def test_not_pushes_with_bounded_weight_and_or_weighs_its_left() -> None:
    """Weights 1, 0.2 and 0.0333 at l = -0.05, -0.5 and -3, constant under the gradient."""
    operators = Operators()
    value = torch.tensor([-0.05, -0.5, -3.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(operators.negated(value).sum(), value)
    torch.testing.assert_close(-slope, torch.tensor([1, 0.2, 0.1 / 3], dtype=torch.float64))
    a, b = torch.tensor(-1.0, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64)
    assert float(operators.either(a, b)) == pytest.approx(2.0139591228, abs=1e-9)
    assert float(Operators(gamma=1).either(a, b)) == pytest.approx(float(Operators(gamma=1).either(b, a)))
    far = torch.tensor([-500.0], requires_grad=True)  # exp of it is zero in float32
    (slope,) = torch.autograd.grad(operators.either(far, far - 1).sum(), far)
    assert float(slope) == pytest.approx(1, abs=1e-6)


def test_and_is_commutative_and_associative_and_not_not_is_not_the_thing() -> None:
    heads = {"digit": torch.randn(5, 10), "slant": torch.rand(5, 1), "thick": torch.randn(5, 2)}
    leaf = term_log_prob(heads)

    def value(text: str) -> torch.Tensor:
        return Operators().log_prob(parse(text, KNOWN), leaf)

    one = value("digit=7 and slant=0.7 and thick")
    torch.testing.assert_close(one, value("thick and (slant=0.7 and digit=7)"))
    torch.testing.assert_close(one, leaf(D7) + leaf(S7) + leaf(THICK))
    assert not torch.allclose(value("not not thick"), value("thick"))


def test_energies_of_terms() -> None:
    logits = torch.tensor([[0.0, math.log(3)]])
    assert float(discrete(logits, 1)) == pytest.approx(math.log(0.75))
    assert float(discrete(logits, 1, temperature=0.5)) == pytest.approx(math.log(0.9))
    assert float(continuous(torch.tensor([[0.5]]), 0.7)) == pytest.approx(-2)


def test_the_bound_of_rejection() -> None:
    assert Operators().bound(parse("digit=1 and slant=0.5", KNOWN)) == 0
    assert Operators().bound(parse("digit=1 or digit=2", KNOWN)) == pytest.approx(math.log(21))
    with pytest.raises(UserError, match="not is a push"):
        Operators().bound(parse("digit=1 and not thick", KNOWN))


def test_truth_of_readings() -> None:
    read = {"digit": torch.tensor([7, 7, 3, -1]), "slant": torch.tensor([0.7, 0.2, 0.7, -1.0])}
    expected = {
        "digit=7": [1, 1, 0, 0],
        "slant=0.7": [1, 0.5, 1, 0],
        "digit=7 and slant=0.7": [1, 0.5, 0, 0],
        "digit=3 or slant=0.2": [0.5, 1, 1, 0],
        "not digit=7": [0, 0, 1, 1],
    }
    for text, values in expected.items():
        torch.testing.assert_close(truth(parse(text, KNOWN), read), torch.tensor(values, dtype=torch.float32))


def test_terms_come_from_left_to_right() -> None:
    assert [str(t) for t in terms(parse("digit=1 or not (thick and slant=0)", KNOWN))] == [
        "digit=1",
        "thick=1",
        "slant=0",
    ]
