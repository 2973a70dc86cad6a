"""docs/reliability.md is of the tests as they are: a line for every fault, and the words around them."""

from __future__ import annotations

import re

from tests.faults.table import FAULTS, HEAD, PAGE, TAIL


def test_the_page_has_a_line_for_every_fault() -> None:
    page = PAGE.read_text()
    assert page.startswith(HEAD)
    assert page.endswith(TAIL)
    lines = page.removeprefix(HEAD).removesuffix(TAIL).splitlines()
    assert len(lines) == len(FAULTS)
    for line, fault in zip(lines, FAULTS.values(), strict=True):
        pattern = re.escape(fault).replace(re.escape("{times}"), r"\d+")
        assert re.match(rf"\| {pattern} \| \S", line), line
