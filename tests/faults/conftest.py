from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.bench import Bench
from tests.faults.table import PAGE, Table


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """Written to the documents when every fault was injected and no test has failed."""
    collected = Table()
    yield collected
    page = collected.page()
    if page is not None and request.session.testsfailed == 0:
        PAGE.write_text(page)


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.child"])
    return Bench(tmp_path_factory.mktemp("faults"), context)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"
