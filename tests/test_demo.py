"""`make demo`, from end to end: what the README promises a newcomer."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.mark.demo
@pytest.mark.timeout(1800)
def test_demo_ends_with_digits_that_read_as_what_was_asked_for() -> None:
    done = subprocess.run(["make", "demo"], cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    accuracy = re.search(r"^label accuracy\s+([\d.]+)$", done.stdout, re.MULTILINE)
    assert accuracy is not None
    assert float(accuracy[1]) >= 0.95
    places = dict(re.findall(r"^(run|picture|metrics|report)\s+(\S+)$", done.stdout, re.MULTILINE))
    assert set(places) == {"run", "picture", "metrics", "report"}
    assert all((ROOT / place).exists() for place in places.values())
    with Image.open(ROOT / places["picture"]) as picture:
        assert min(picture.size) >= 300  # 8x8 digits are enlarged until a person can read them
