"""Every command that README and the pages of docs/ show runs, and prints what they show.

`gentool train` is made small; from then on figures differ, and the words around them are compared.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_pages import PAGES, ROOT, blocks, console
from doc_shell import Shell, make_targets

SMALL = (
    "trainer.max_steps=20",
    "trainer.log_every=10",
    "data.batch_size=32",
    "model.network.width=32",
    "model.network.blocks=2",
    "optimizer.warmup=5",
    "evaluate.count=60",
)
SMALLER = {
    "quickstart": SMALL,
    "classifier/digits-small": SMALL[:2],
    "edm/digits-vp-preconditioned-small": SMALL[:-1],
    "genie/digits-small": (*SMALL[:3], "optimizer.warmup=5"),
}
SHOWN = [page for page in PAGES if console(page.read_text()) and page.name != "CONTRIBUTING.md"]


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Judges are trained once for all pages, and nothing of the user's is used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENTOOL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.name)
def test_what_a_page_shows_happens(page: Path, tmp_path: Path) -> None:
    commands = console(page.read_text())
    shell = Shell(tmp_path, smaller=SMALLER)
    for command, following in zip(commands, [*commands[1:], None]):
        if command.text.startswith("make "):
            assert set(command.text.split()[1:]) <= make_targets(), command
            continue
        ended = shell.run(command)
        told = following is not None and following.text == "echo $?"
        assert (ended.code != 0) == told, f"{page.name}:{command.line}: {command.text}\n{ended}"


def test_each_make_command_in_the_documents_is_a_target() -> None:
    named = set()
    for page in PAGES:
        named |= set(re.findall(r"^(?:\$ | {4})?make ([a-z][\w-]*)", page.read_text(), re.M))
    assert {"demo", "test", "lint"} <= named <= make_targets()


def test_readme_shows_commands_only_where_they_are_run() -> None:
    """A `gentool` line in another kind of block would be shown and never tried."""
    elsewhere = [
        line
        for block in blocks((ROOT / "README.md").read_text())
        if block.language != "console"
        for line in block.text.splitlines()
        if line.startswith(("gentool ", "make "))
    ]
    assert elsewhere == []


def test_readme_lists_every_family() -> None:
    from gentool.families import FAMILIES

    table = (ROOT / "README.md").read_text().split("## What works, and what does not")[1]
    assert [name for name in FAMILIES.names() if f"`{name}`" not in table] == []
