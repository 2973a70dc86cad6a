"""Names, options and messages, all without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gentool.diffusion.guidance.catalog import (
    CATALOG,
    AdaptiveOptions,
    ApgOptions,
    CfgOptions,
    check,
    notices,
    parse,
)
from gentool.errors import RecipeError, UserError


def test_the_catalogue_and_its_checks_import_no_torch() -> None:
    code = (
        "import sys; from gentool.diffusion.guidance.catalog import check, parse; "
        "check(parse('cfg=2', 'pag')); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("texts", "rules"),
    [
        (["cfg=2.0"], {"cfg": {"scale": 2.0}}),
        (["apg=4"], {"apg": {"scale": 4.0}}),
        (["cfg"], {"cfg": {}}),
        (["cfg=-1e-1"], {"cfg": {"scale": -0.1}}),
        (["pag = 3", "cfg=2"], {"pag": {"scale": 3.0}, "cfg": {"scale": 2.0}}),
        (["none"], {}),
        ([], {}),
    ],
)
def test_the_command_line_form(texts: list[str], rules: dict[str, Any]) -> None:
    assert list(parse(*texts).items()) == list(rules.items())


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["cgf=2"], "did you mean cfg"),
        (["cfg="], "expected NAME or NAME=SCALE"),
        (["cfg=two"], "expected NAME or NAME=SCALE"),
        (["cfg=nan"], "expected NAME or NAME=SCALE"),
        (["cfg=inf"], "expected NAME or NAME=SCALE"),
        (["cfg=1=2"], "expected NAME or NAME=SCALE"),
        (["=2"], "there are: cfg, apg, adaptive, pag, classifier"),
        ([""], "there are"),
        (["cfg=2", "cfg=3"], "twice"),
        (["none", "cfg"], "unknown guidance 'none'"),
    ],
)
def test_command_lines_that_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        parse(*texts)
    assert error.value.where == "--guidance"


def test_the_recipe_form_keeps_its_order_and_fills_in_defaults() -> None:
    spec = check({"pag": {"layers": ["mid"]}, "cfg": {"scale": 2, "interval": [0.3, 5]}})
    assert list(spec) == ["pag", "cfg"]
    assert spec["cfg"] == CfgOptions(scale=2.0, interval=(0.3, 5.0))
    assert spec["pag"].model_dump() == {"scale": 4.0, "layers": ("mid",)}
    assert check({}) == {}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"cgf": {}}, "cgf: unknown guidance 'cgf'; did you mean cfg"),
        ({"cfg": {"scal": 2.0}}, "cfg.scal: unknown key; did you mean scale"),
        ({"cfg": {"scale": "2"}}, "cfg.scale: .*valid number"),
        ({"cfg": {"scale": True}}, "cfg.scale: .*valid number"),
        ({"cfg": {"scale": float("inf")}}, "cfg.scale: .*finite"),
        ({"cfg": {"interval": [2.0, 1.0]}}, "cfg.interval: expected .lo, hi."),
        ({"cfg": {"interval": [-1.0, 1.0]}}, "cfg.interval: expected .lo, hi."),
        ({"cfg": {"interval": [1.0]}}, "cfg.interval.1: .*required"),
        ({"cfg": {"interval": ["1", 2.0]}}, "cfg.interval.0: .*valid number"),
        ({"cfg": {"rescale": 1.5}}, "cfg.rescale: .*less than or equal to 1"),
        ({"apg": {"radius": 0.0}}, "apg.radius: .*greater than 0"),
        ({"apg": {"radius": 1.0, "radius_rms": 1.0}}, "apg: radius and radius_rms .* keep one"),
        ({"apg": {"momentum": -1.0}}, "apg.momentum: .*greater than -1"),
        ({"pag": {"layers": "mid"}}, "pag.layers: .*tuple"),
        ({"cfg": {}, "apg": {}}, "cfg and apg steer by the null label alike"),
    ],
)
def test_recipes_that_are_refused(rules: dict[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check(rules)


def test_all_faults_are_reported_at_once_with_their_place() -> None:
    with pytest.raises(RecipeError) as error:
        check({"cfg": {"scal": 2.0, "rescale": 2.0}, "pga": {}}, where="r.yaml:3:1 sample.guidance")
    assert [problem.key for problem in error.value.problems] == ["cfg.rescale", "cfg.scal", "pga"]
    assert {problem.where for problem in error.value.problems} == {"r.yaml:3:1 sample.guidance"}
    assert error.value.exit_code == 2


@pytest.mark.parametrize("name", CATALOG)
def test_every_option_is_described_for_editors_and_help(name: str) -> None:
    schema = CATALOG[name].options.model_json_schema()
    assert all("description" in field for field in schema["properties"].values())


def test_notices() -> None:
    def of(clipped: bool = True, **rules: dict[str, Any]) -> str:
        return "\n".join(notices(check(rules), clipped=clipped))

    assert of(cfg={"scale": 2.0}) == ""
    assert "scale 1 is the plain prediction" in of(cfg={"scale": 1.0})
    assert "unconditional" in of(cfg={"scale": 0.0})
    assert "negative scale -1" in of(apg={"scale": -1.0})
    assert of(cfg={"scale": 16.0}) == ""
    assert "threshold" in of(clipped=False, cfg={"scale": 16.0})
    assert of(clipped=False, cfg={"scale": 15.0}) == ""
    assert of(classifier={"scale": 1.0}) == ""
    assert "ignores" in of(classifier={"scale": 0.0})


def test_defaults_guide() -> None:
    """A rule named without a scale does something, at values that published work uses."""
    assert CfgOptions().scale == 2.0
    assert ApgOptions().eta == 0.0
    assert AdaptiveOptions().threshold == 0.99


PAGE = Path(__file__).parents[3] / "docs" / "guidance.md"


@pytest.mark.parametrize("name", CATALOG)
def test_the_users_page_has_every_rule_with_its_options_defaults_and_an_example(name: str) -> None:
    section = re.split(r"^## ", PAGE.read_text(), flags=re.M)
    (own,) = [text for text in section if text.startswith(f"{name}: ")]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", own, flags=re.M))
    fields = CATALOG[name].options.model_fields
    written = {None: "none", (): "all"}
    assert rows == {key: written.get(field.default, str(field.default)) for key, field in fields.items()}
    assert f"--guidance {name}=" in own
    assert CATALOG[name].source.rpartition(" ")[2] in own


def test_the_users_pages_commands_and_recipes_are_valid() -> None:
    text = PAGE.read_text()
    for line in re.findall(r"^gentool sample .*$", text, flags=re.M):
        check(parse(*re.findall(r"--guidance (\S+)", line)))
    for block in re.findall(r"^```yaml\n(.*?)```", text, flags=re.M | re.S):
        assert check(yaml.safe_load(block)["sample"]["guidance"])
