from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.device.far import far_device


@pytest.fixture
def far() -> Iterator[torch.device]:
    with far_device() as device:
        yield device
