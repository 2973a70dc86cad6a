"""The strict loader: YAML 1.2 core scalars, positions, and everything it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gentool.errors import Problem, RecipeError
from gentool.recipes.dump import dump
from gentool.recipes.loader import MAX_BYTES, Node, load
from gentool.recipes.scalars import scalar


def read(text: str | bytes) -> tuple[Node, list[Problem]]:
    problems: list[Problem] = []
    return load(text if isinstance(text, bytes) else text.encode(), "r.yaml", problems), problems


def faults(text: str | bytes) -> list[Problem]:
    """All problems of a file, whether they stopped the loader or not."""
    try:
        return read(text)[1]
    except RecipeError as error:
        return list(error.problems)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),  # YAML 1.1, and so PyYAML, reads text
        ("1E5", 1e5),
        (".5", 0.5),
        ("-1.", -1.0),
        ("+12", 12),
        ("0", 0),
        ("0o17", 15),
        ("0xFF", 255),
        ("true", True),
        ("False", False),
        ("on", "on"),  # 1.1: true
        ("no", "no"),
        ("12:30:00", "12:30:00"),  # 1.1: 45000
        ("1_000", "1_000"),  # 1.1: 1000
        ("2001-01-01", "2001-01-01"),  # 1.1: a date
        ("0b11", "0b11"),
        ("=", "="),
        ("~", None),
        ("Null", None),
        ("", None),
    ],
)
def test_plain_scalars_follow_yaml_1_2_core(text: str, value: object) -> None:
    found = scalar(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text", [".nan", ".inf", "-.INF", "1e400", "012", "-007", "9" * 19, "9" * 100_000, "1" * 30]
)
def test_numbers_that_are_not_finite_or_not_clear_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"finite|too large|ambiguous"):
        scalar(text)


def test_quoted_scalars_are_text() -> None:
    root, problems = read("a: '1'\nb: \"true\"\nc: |\n  .nan\n")
    assert root.plain() == {"a": "1", "b": "true", "c": ".nan\n"}
    assert not problems


def test_every_value_and_key_knows_its_place() -> None:
    root, _ = read("# a comment\na: 1\nblock:\n  b: [x, 2]\n  'c': {d: null}\n")
    assert isinstance(root.value, dict)
    block = root.value["block"].value
    assert isinstance(block, dict)
    assert (root.value["a"].key_where, root.value["a"].where) == ("r.yaml:2:1", "r.yaml:2:4")
    assert (block["b"].key_where, block["b"].where) == ("r.yaml:4:3", "r.yaml:4:6")
    assert [node.where for node in block["b"].value] == ["r.yaml:4:7", "r.yaml:4:10"]  # type: ignore[union-attr]
    assert block["c"].value["d"].key_where == "r.yaml:5:9"  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    ("text", "where", "key", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "r.yaml:3:1", "a", "written twice; first at r.yaml:1:1"),
        ("a: {b: 1, b: 1}\n", "r.yaml:1:11", "a.b", "written twice; first at r.yaml:1:5"),
        ("a: &x 1\nb: 2\n", "r.yaml:1:4", "a", "anchors are not allowed (&x)"),
        ("a: 1\nb: *x\n", "r.yaml:2:4", "b", "aliases are not allowed (*x)"),
        ("a: !!python/object:os.system 1\n", "r.yaml:1:4", "a", "tags are not allowed"),
        ("a: ! 1\n", "r.yaml:1:4", "a", "tags are not allowed"),
        ("a:\n\tb: 1\n", "r.yaml:2:1", "", "a tab cannot indent"),
        ("a: [1, 2\nb: 3\n", "r.yaml:2:2", "", "not valid YAML"),
        ("a: 1\n---\nb: 1\n", "r.yaml:2:1", "", "second document"),
        ("a: .nan\n", "r.yaml:1:4", "a", "finite"),
        ("a:\n  lr: 012\n", "r.yaml:2:7", "a.lr", "ambiguous"),
        ("1: a\n", "r.yaml:1:1", "1", "must be text"),
        ("null: a\n", "r.yaml:1:1", "null", "must be text"),
        ("? [a]\n: b\n", "r.yaml:1:3", "", "must be plain text"),
        ("a.b: 1\n", "r.yaml:1:1", "a.b", "nest the blocks"),
        ("", "r.yaml:1:1", "", "empty"),
        ("# nothing\n", "r.yaml:1:1", "", "empty"),
        ("- a\n- b\n", "r.yaml:1:1", "", "mapping"),
        ("just text\n", "r.yaml:1:1", "", "mapping"),
        (b"a: 1\nb: \xff\n", "r.yaml:2:4", "", "UTF-8"),
        ("a: 1\nb: \x07\n", "r.yaml:2:4", "", "not allowed in YAML"),
        ('a: "\\ud800"\n', "r.yaml:1:4", "a", "Unicode"),
        ('a: "\\UFFFFFFFF"\n', "r.yaml:1:7", "", "out of range"),
        (b"a: 1\n" + b"#" * MAX_BYTES, "r.yaml:1:1", "", "larger than 1 MiB"),
        ("a: " + "[" * 40 + "]" * 40, "r.yaml:1:36", "a" + ".0" * 32, "deeper than 32"),
    ],
)
def test_refused_with_its_place(text: str | bytes, where: str, key: str, words: str) -> None:
    (problem,) = faults(text)
    assert (problem.where, problem.key) == (where, key)
    assert words in problem.message


def test_all_readable_faults_are_collected_and_the_first_of_twins_is_kept() -> None:
    root, problems = read("a: 1\na: 2\nb: .inf\nc: &x 3\nd: *x\n")
    assert [p.key for p in problems] == ["a", "b", "c", "d"]
    assert root.plain() == {"a": 1, "b": None, "c": 3, "d": None}


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\n"
        + "".join(f"{c}: &{c} [{', '.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefg", "bcdefgh")),
        "a: " + "[" * 500_000,
        "a: " + "{a: " * 100_000,
        "[" + "1, " * 300_000 + "]",
        "".join(f"k{i}: 1\n" for i in range(60_000)),
        "a: " + "9" * 1_000_000,
        "a: '" + "x " * 500_000,
        "- " * 400_000,
        "? " * 400_000,
    ],
    ids=[
        "alias-bomb",
        "brackets",
        "braces",
        "long-list",
        "many-keys",
        "digits",
        "open-quote",
        "dashes",
        "question-marks",
    ],
)
def test_hostile_files_are_given_up(text: str) -> None:
    """Each would take minutes, gigabytes or Python's whole stack to read to its end."""
    assert faults(text)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(
        st.characters(
            codec="utf-8", exclude_characters="\x7f\ufeff", exclude_categories=["Cc", "Cs", "Cn", "Co"]
        )
    )
    | st.sampled_from(
        ["1e-3", "on", "012", "12:30", "~", "", "=", "<<", "1_0", "0x1", "x\ny\n", " a ", "\u2028", "# a"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), values, max_size=5))
def test_what_dump_writes_loads_as_the_same_values(tree: dict[str, object]) -> None:
    tree.pop("schema", None)
    root, problems = read(dump(tree))
    found = root.plain()
    assert found.pop("schema") == 1
    assert not problems
    assert found == tree
    assert repr(found) == repr(tree)  # types too: 1 is not 1.0, and not true
