"""What the documents take from the program is what the program says."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import ModuleType

import pytest
from doc_pages import ROOT


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results_differ() -> bool:
    """Whether somebody measured here and has not committed: then claims.md waits for them, and only then."""
    changed = ["git", "status", "--porcelain", "benchmarks/results"]
    done = subprocess.run(changed, cwd=ROOT, capture_output=True, text=True)
    return done.returncode == 0 and bool(done.stdout.strip())


def test_generated_pages_and_tables_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    if results_differ():
        assert done.returncode == 0 or done.stderr.startswith("stale: claims.md;")
    else:
        assert done.returncode == 0, done.stderr


def test_a_table_keeps_bars_inside_their_cell(generate: ModuleType) -> None:
    assert generate.table(("a", "b"), [("x | y", 1)]).splitlines()[-1] == r"| x \| y | 1 |"


def test_a_page_without_its_marks_is_refused(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(generate.BLOCKS, "index.md", {"nowhere": lambda: ""})
    with pytest.raises(SystemExit, match=r"index\.md: expected <!-- generated: nowhere -->"):
        generate.filled("index.md")


def test_filling_a_page_twice_changes_nothing(
    generate: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    page = tmp_path / "page.md"  # type: ignore[operator]
    page.write_text("a\n<!-- generated: x -->\nold\n<!-- end -->\nb\n")
    monkeypatch.setitem(generate.BLOCKS, "page.md", {"x": lambda: "new"})
    page.write_text(generate.filled("page.md"))
    assert (
        page.read_text() == generate.filled("page.md") == "a\n<!-- generated: x -->\nnew\n<!-- end -->\nb\n"
    )
