"""Links and names in the documents lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_pages import PAGES, ROOT, anchors, links

LOCAL = [(page, link) for page in PAGES for link in links(page.read_text()) if not re.match(r"\w+:", link)]


@pytest.mark.parametrize(("page", "link"), LOCAL, ids=lambda v: v.name if isinstance(v, Path) else v)
def test_a_local_link_leads_to_a_file_and_its_anchor_to_a_heading(page: Path, link: str) -> None:
    file, _, anchor = link.partition("#")
    target = (page.parent / file).resolve() if file else page
    assert target.is_relative_to(ROOT), "a link may not leave the repository"
    assert target.exists()
    if anchor:
        assert anchor in anchors(target.read_text())


def test_the_index_lists_every_page() -> None:
    listed = {link.partition("#")[0] for link in links((ROOT / "docs" / "index.md").read_text())}
    assert {page.name for page in PAGES if page.parent == ROOT / "docs"} - {"index.md"} <= listed


def test_pages_that_the_program_names_exist() -> None:
    named = set()
    for file in (ROOT / "gentool").rglob("*.py"):
        named |= set(re.findall(r"docs/[\w-]+\.md", file.read_text()))
    assert {name for name in named if not (ROOT / name).is_file()} == set()


def test_paths_that_the_documents_name_exist() -> None:
    own = re.compile(r"`((?:gentool|tests|docs|recipes|benchmarks)/[\w./-]*)`")
    missing = {
        f"{page.name}: {path}"
        for page in PAGES
        for path in own.findall(page.read_text())
        if not (ROOT / path).exists()
    }
    assert missing == set()


def test_headings_become_the_anchors_that_code_hosts_make() -> None:
    assert anchors("# A `b`, c?\n## Keys of `x:`\n## Twice\n## Twice\n") == {
        "a-b-c",
        "keys-of-x",
        "twice",
        "twice-1",
    }
