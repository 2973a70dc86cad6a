"""Recipes, pictures and paths that the documents show are real."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from doc_pages import PAGES, ROOT, blocks, named_files
from PIL import Image

from gentool.families import recipe_schema
from gentool.recipes.resolve import resolve, resolve_text
from gentool.tasks.training.resume import differences


def snippets() -> list[tuple[str, str]]:
    """(page:line, text) of each YAML block, but those that name a file (CONTRIBUTING's package has its own test)."""
    found = []
    for page in PAGES:
        text = page.read_text()
        own = set(named_files(text).values())
        for block in blocks(text):
            body = block.text.partition("\n")[2].lstrip("\n")
            if block.language == "yaml" and body not in own:
                found.append((f"{page.name}:{block.line}", block.text))
    return found


@pytest.mark.parametrize(("where", "text"), snippets(), ids=lambda v: v if "\n" not in v else "")
def test_a_recipe_in_the_documents_is_valid(where: str, text: str) -> None:
    """Whole recipes by themselves, blocks of one in the place of the quickstart's; every key takes effect."""
    keys = yaml.safe_load(text) or {}
    if "family" in keys:
        resolved = resolve_text(text, where, recipe_schema)
        given = {key for key, origin in resolved.origins.items() if origin.startswith(where)}
    else:
        changes = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
        resolved = resolve("quickstart", changes, recipe_schema)
        given = {key for key, origin in resolved.origins.items() if origin.startswith("override ")}
    assert {key.partition(".")[0] for key in given} == set(keys)


def test_the_picture_was_made_by_the_command_beside_it() -> None:
    with Image.open(ROOT / "docs" / "images" / "digits.png") as picture:
        made = json.loads(picture.info["gentool"])
    command = re.search(r"^\$ (gentool sample .* -o digits\.png)$", (ROOT / "README.md").read_text(), re.M)
    assert command is not None
    words = command[1].split()
    assert [*made["command"][:2], *made["command"][3:]] == [*words[:2], *words[3:]]  # but for the run folder
    then, now = (
        resolve_text(made["recipe"], "picture", recipe_schema),
        resolve("quickstart", (), recipe_schema),
    )
    assert differences(then, now) == [], "the quickstart has changed: make its picture anew"


def test_no_document_names_a_place_on_a_machine() -> None:
    assert [p.name for p in PAGES if re.search(r"(?<![\w.])/(?:work|tmp|home|root)/", p.read_text())] == []


def test_every_exit_code_is_documented() -> None:
    from gentool import errors

    page = (ROOT / "docs" / "exit-codes.md").read_text()
    ends = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.GentoolError)]
    rows = [line for line in page.splitlines() if line.startswith("|")]
    for end in ends:
        assert any(line.startswith(f"| {end.exit_code} |") and f"`{end.kind}`" in line for line in rows), end


def test_every_file_of_a_run_is_documented(tmp_path: Path) -> None:
    from gentool.runs.folder import RunFolder

    page = (ROOT / "docs" / "run-folder.md").read_text()
    places = [value for value in vars(RunFolder(tmp_path)).values() if isinstance(value, Path)]
    names = {place.name for place in places if place != tmp_path}
    assert {name for name in names if f"`{name}" not in page} == set()
