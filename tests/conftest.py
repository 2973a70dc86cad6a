"""What all tests may ask for."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Hides a package as if it were not installed, parts that earlier tests of the process loaded included."""

    def hidden(package: str) -> None:
        loaded = [name for name in sys.modules if name.startswith(f"{package}.")]
        for name in [package, *loaded]:
            monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]

    return hidden
