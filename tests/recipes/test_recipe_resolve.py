"""Resolving: values, origins, complete text, and every fault at once in a person's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recipe_toy import RECIPE, ToyRecipe, schema_of

from gentool.errors import Problem, RecipeError, UserError
from gentool.recipes import shipped
from gentool.recipes.resolve import Resolved, leaves, resolve


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def make(text: str, *overrides: str) -> Resolved:
        Path("r.yaml").write_text(text, encoding="utf-8")
        return resolve("r.yaml", overrides, schema_of)

    return make


def faults(write: Any, text: str, *overrides: str) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        write(text, *overrides)
    return list(caught.value.problems)


def test_values_name_and_defaults(write: Any) -> None:
    resolved = write(RECIPE)
    recipe = resolved.recipe
    assert isinstance(recipe, ToyRecipe)
    assert resolved.name == "r"
    assert recipe.model.network.model_dump() == {"name": "unet", "width": 16, "mult": (1, 2, 2)}
    assert recipe.model.sigma_min == 1e-3
    assert type(recipe.trainer.clip_norm) is float  # an integer is a number
    assert recipe.trainer.log_every == 50
    assert recipe.sample.guidance == {"cfg": {"scale": 2.0}}


def test_every_leaf_has_an_origin(write: Any) -> None:
    resolved = write(RECIPE, "trainer.max_steps=7", "ema=null")
    values = resolved.recipe.model_dump(mode="json")
    assert list(resolved.origins) == [key for key, _ in leaves(values)]
    expected = {
        "family": "r.yaml:2:9",
        "data.batch_size": "r.yaml:4:34",
        "model.network.mult": "r.yaml:9:11",
        "model.sigma_max": "default",
        "trainer.max_steps": "override 'trainer.max_steps=7'",
        "trainer.precision": "default",
        "ema": "override 'ema=null'",
        "sample.guidance.cfg.scale": "r.yaml:15:27",
    }
    assert {key: resolved.origins[key] for key in expected} == expected


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("ema=", "model.heads=[{name: mlp}, {name: mlp, hidden: [1, 2]}]", "model.critic.name=mlp"),
        (
            "~model",
            "~sample",
            "description='on'",
            "optimizer.lr=1e-7",
            "model.teacher={name: unet, width: 3}",
        ),
    ],
)
def test_the_complete_text_resolves_to_the_same_recipe(write: Any, overrides: tuple[str, ...]) -> None:
    first = write(RECIPE, *overrides)
    assert first.text.startswith("# yaml-language-server: $schema=")
    again = write(first.text)
    assert again.recipe == first.recipe
    assert again.text == first.text
    assert "default" not in again.origins.values()


def test_a_blocks_own_default_survives_partial_settings(write: Any) -> None:
    """`optimizer: {warmup: 5}` keeps the family's lr and betas, not the shared class's."""
    recipe = write(RECIPE).recipe
    assert (recipe.optimizer.lr, recipe.optimizer.betas, recipe.optimizer.warmup) == (2e-4, (0.9, 0.99), 5)
    base = "family: toy\ndata: {name: digits}\n"
    assert write(base, "model.network.mult=[3]").recipe.model.network.model_dump() == {
        "name": "unet",
        "width": 32,
        "mult": (3,),
    }
    assert write(base, "model.network={name: mlp}").recipe.model.network.hidden == (128,)
    assert write(base, "model.network={name: unet}").recipe.model.network.width == 32


def test_all_faults_at_once_in_the_order_of_the_file(write: Any) -> None:
    text = """\
family: toy
trainr: {max_steps: 1}
data: {name: digits, batch_sise: 4, batch_size: 4}
model:
  network: {name: unet, wdth: 3}
  sigma_max: high
trainer:
  max_steps: banana
  devices: 0
  compile: on
  precision: 32
  nodes: 1.0
optimizer: {lr: -1, betas: [0.9], eps: 1_000.0}
evaluate: {metrics: fid, count: "10"}
"""
    found = [f"{p.where} {p.key}: {p.message}" for p in faults(write, text, "sed=1", "ema.decay=2")]
    assert found == [
        "r.yaml:2:1 trainr: unknown key; did you mean trainer?",
        "r.yaml:3:22 data.batch_sise: unknown key; did you mean batch_size?",
        "r.yaml:5:25 model.network.wdth: unknown key; did you mean width?",
        "r.yaml:6:14 model.sigma_max: expected a number, got 'high'",
        "r.yaml:8:14 trainer.max_steps: expected an integer above 0, got 'banana'",
        "r.yaml:9:12 trainer.devices: expected an integer above 0 or auto, got 0",
        "r.yaml:10:12 trainer.compile: expected true or false, got 'on'",
        "r.yaml:11:14 trainer.precision: expected one of 32-true, bf16-mixed, 16-mixed, 64-true, got 32",
        "r.yaml:12:10 trainer.nodes: expected an integer above 0, got 1.0; write 1",
        "r.yaml:13:17 optimizer.lr: expected a number above 0, got -1",
        "r.yaml:13:28 optimizer.betas: expected a list of 2: "
        "a number between 0 and 1, a number between 0 and 1, got [0.9]",
        "r.yaml:13:40 optimizer.eps: expected a number above 0, got '1_000.0'; write 1000.0",
        "r.yaml:14:21 evaluate.metrics: expected a list, each item text, got 'fid'",
        "r.yaml:14:33 evaluate.count: expected an integer above 0 or null, got '10'; remove the quotes",
        "override 'ema.decay=2' ema.decay: expected a number between 0 and 1, got 2",
        "override 'sed=1' sed: unknown key; did you mean seed?",
    ]


BASE = "family: toy\ndata: {name: digits}\n"


@pytest.mark.parametrize(
    ("text", "where", "key", "message"),
    [
        ("family: toy\n", "r.yaml:1:1", "data", "required: a block with name: one of digits, images, folder"),
        ("family: toy\ndata: {}\n", "r.yaml:2:1", "data.name", "required: one of digits, images, folder"),
        (
            "family: toy\ndata: {name: digit, size: x}\n",
            "r.yaml:2:14",
            "data.name",
            "expected one of digits, images, folder, got 'digit'; did you mean digits?",
        ),
        (
            "family: toy\ndata: {name: 3}\n",
            "r.yaml:2:14",
            "data.name",
            "expected one of digits, images, folder, got 3",
        ),
        (
            "family: toy\ndata: digits\n",
            "r.yaml:2:7",
            "data",
            "expected a block with name: one of digits, images, folder, got 'digits'",
        ),
        ("family: toy\ndata: {name: folder}\n", "r.yaml:2:1", "data.path", "required: text"),
        (
            "family: toy\ndata: {name: images, path: x, size: 12}\n",
            "r.yaml:2:37",
            "data.size",
            "expected an integer between 8 and 1024 and that is a multiple of 8, got 12",
        ),
        (
            BASE + "model: {teacher: {name: unet, widht: 3}}\n",
            "r.yaml:3:31",
            "model.teacher.widht",
            "unknown key; did you mean width?",
        ),
        (
            BASE + "model: {teacher: non}\n",
            "r.yaml:3:18",
            "model.teacher",
            "expected a block of keys (name, width, mult) or none, got 'non'; did you mean none?",
        ),
        (
            BASE + "model: {critic: {name: mlp, hidden: [2, 0]}}\n",
            "r.yaml:3:41",
            "model.critic.hidden.1",
            "expected an integer above 0, got 0",
        ),
        (
            BASE + "model: {critic: {name: mlp, hidden: []}}\n",
            "r.yaml:3:37",
            "model.critic.hidden",
            "expected a list, each item an integer above 0 of length at least 1, got []",
        ),
        (
            BASE + "model: {heads: [{name: mlp, hiden: 1}]}\n",
            "r.yaml:3:29",
            "model.heads.0.hiden",
            "unknown key; did you mean hidden?",
        ),
        (BASE + "model: {sigma_min: 90}\n", "r.yaml:3:8", "model", "sigma_min must be below sigma_max"),
        (BASE + "trainer:\n", "r.yaml:3:9", "trainer", "expected a block of keys"),
        (
            BASE + "sample: {guidance: {cfg: 2}}\n",
            "r.yaml:3:26",
            "sample.guidance.cfg",
            "expected a block of keys, got 2",
        ),
        (
            BASE + "trainer: {precision: fp32}\n",
            "r.yaml:3:22",
            "trainer.precision",
            "expected one of 32-true",
        ),
        (BASE + "seed: true\n", "r.yaml:3:7", "seed", "expected an integer of at least 0, got true"),
        (
            BASE + "optimizer: {lr: true}\n",
            "r.yaml:3:17",
            "optimizer.lr",
            "expected a number above 0, got true",
        ),
        (BASE + "optimizer: {lr: '1e-3'}\n", "r.yaml:3:17", "optimizer.lr", "remove the quotes"),
        (BASE + "description: 3\n", "r.yaml:3:14", "description", "expected text, got 3"),
        (BASE + "schema: 2\n", "r.yaml:3:9", "schema", "upgrade gentool"),
        (BASE + "schema: one\n", "r.yaml:3:9", "schema", "write schema: 1"),
        ("data: {name: digits}\n", "r.yaml:1:1", "family", "required: text"),
        ("family: 3\n", "r.yaml:1:9", "family", "expected text, got 3"),
    ],
)
def test_one_clear_message_for_a_fault(write: Any, text: str, where: str, key: str, message: str) -> None:
    problem = next(p for p in faults(write, text) if p.key == key)
    assert problem.where == where
    assert message in problem.message


def test_one_message_for_a_union_not_one_a_branch(write: Any) -> None:
    assert len(faults(write, BASE + "trainer: {devices: [1]}\nmodel: {teacher: 3, critic: 4}\n")) == 3


def test_an_unknown_family_is_told_with_the_faults_of_shared_sections(write: Any) -> None:
    text = "family: toi\ndata: 1\nmodel: 2\nprivacy: {epsilon: 1}\ntrainer: {max_step: 1}\n"
    assert [(p.where, p.key, p.message) for p in faults(write, text)] == [
        ("r.yaml:1:9", "family", "unknown family 'toi'; did you mean toy? (there are: toy)"),
        ("r.yaml:5:11", "trainer.max_step", "unknown key; did you mean max_steps?"),
    ]


def test_faults_of_yaml_and_schema_come_together_each_once(write: Any) -> None:
    text = BASE + "seed: .nan\nseed: x\ntrainer: {max_steps: &a 3, nodes: *a, loggers: [bla]}\n"
    assert [p.key for p in faults(write, text)] == [
        "seed",
        "seed",
        "trainer.max_steps",
        "trainer.nodes",
        "trainer.loggers.0",
    ]


def test_a_thousand_faults_are_told_by_number(write: Any) -> None:
    found = faults(write, BASE + "".join(f"key{i}: 1\n" for i in range(1000)))
    assert len(found) == 101
    assert found[-1].message == "and 900 more faults"


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (("optimizer.lr=1e-3",), "optimizer.lr", 1e-3),
        (("description=a=b=c",), "description", "a=b=c"),
        (("description='on # not a comment'",), "description", "on # not a comment"),
        (("description=größe 雪",), "description", "größe 雪"),
        (("seed=1", "seed=2"), "seed", 2),
        (("ema=",), "ema", None),
        (("ema=", "ema.decay=0.5"), "ema.decay", 0.5),
        (("optimizer.betas=[0.1, 0.2]",), "optimizer.betas", (0.1, 0.2)),
        (("sample.guidance={cfg: {scale: 3}}",), "sample.guidance", {"cfg": {"scale": 3}}),
        (("sample.guidance.cfg.until=0.5",), "sample.guidance", {"cfg": {"scale": 2.0, "until": 0.5}}),
        (("~optimizer",), "optimizer.lr", 2e-4),
        (("~sample.options.eta",), "sample.options", {}),
        (("data={name: images, path: a=b}",), "data.path", "a=b"),
    ],
)
def test_overrides_set_and_remove(write: Any, overrides: tuple[str, ...], key: str, value: object) -> None:
    found: Any = write(RECIPE, *overrides).recipe
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(
    ("override", "key", "words"),
    [
        ("seed", "", "expected KEY=VALUE"),
        ("=3", "", "expected KEY=VALUE"),
        ("a..b=3", "", "expected KEY=VALUE"),
        ("~seed=3", "", "expected KEY=VALUE"),
        ("~", "", "expected KEY=VALUE"),
        ("\udcff=3", "", "expected KEY=VALUE"),
        ("~seed", "seed", "does not set it"),
        ("~trainer.max_step", "trainer.max_step", "did you mean max_steps?"),
        ("trainer.max_stepz=3", "trainer.max_stepz", "unknown key; did you mean max_steps?"),
        ("trainer.max_steps.x=3", "trainer.max_steps.x", "trainer.max_steps is a value"),
        ("model.network.mult.0=3", "model.network.mult.0", "give the whole list"),
        ("seed=[1", "seed", "not valid YAML"),
        ("seed=.nan", "seed", "finite"),
        ("seed=*a", "seed", "aliases"),
        ("seed=1\n---\n2", "seed", "second document"),
        ("description=\udcff", "description", "not allowed"),
        ("data.name=digit", "data.name", "did you mean digits?"),
        (".".join("a" * 5000) + "=1", "", "expected KEY=VALUE"),
    ],
)
def test_faulty_overrides_name_themselves(write: Any, override: str, key: str, words: str) -> None:
    (problem,) = faults(write, RECIPE, override)
    assert problem.where == f"override {override!r}"
    assert problem.key == key
    assert words in problem.message


def test_sources(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "library"
    (library / "toy").mkdir(parents=True)
    (library / "toy" / "digits-small.yaml").write_text(RECIPE)
    monkeypatch.setattr(shipped, "root", lambda: library)
    (tmp_path / "toy").mkdir()
    resolved = resolve("toy/digits-small", [], schema_of)
    assert resolved.name == "toy/digits-small"
    assert resolved.origins["family"] == "toy/digits-small.yaml:2:9"
    assert resolve(library / "toy" / "digits-small.yaml", [], schema_of).name == "digits-small"
    for source, words in {
        "toy/digits-smal": "did you mean toy/digits-small?",
        "none.yaml": "no such recipe",
        "library": "directory",
        "a\0b": "not a path",
        "x" * 5000: "cannot read",
    }.items():
        with pytest.raises(UserError, match=words.replace("?", r"\?")):
            resolve(source, [], schema_of)


def test_shipped_recipes_are_listed_and_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "a.yaml").write_text(RECIPE)
    (tmp_path / "quickstart.yaml").write_text("family: toy\n")
    monkeypatch.setattr(shipped, "root", lambda: tmp_path)
    assert shipped.names() == ["quickstart", "toy/a"]
    assert shipped.describe("toy/a") == {"name": "toy/a", "family": "toy", "description": "a toy on digits"}
    with pytest.raises(UserError, match="did you mean quickstart"):
        shipped.path("quikstart")
