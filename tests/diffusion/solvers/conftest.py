from __future__ import annotations

import pytest
from solver_cases import EDM, VP, Ddpm


@pytest.fixture
def vp() -> VP:
    return VP()


@pytest.fixture
def edm() -> EDM:
    return EDM()


@pytest.fixture
def ddpm() -> Ddpm:
    return Ddpm()
