"""Clouds in the report: data that can be read back, the only script that is allowed, and a browser that turns it."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gentool.metrics.cloud_view import SHOWN, packed, script, view
from gentool.metrics.report import render

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def clouds(count: int = 3, points: int = 400) -> np.ndarray:
    """Rods along x: seen end on they are short, from the side long."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(count, points, 3)) * [1.0, 0.05, 0.05] + 4).astype(np.float32)


def test_packed_points_are_the_cloud_about_the_middle_of_its_box() -> None:
    cloud = clouds()[0]
    back = np.frombuffer(base64.b64decode(packed(cloud)), "<i2").reshape(-1, 3) / 32767
    centred = cloud - (cloud.min(0) + cloud.max(0)) / 2
    np.testing.assert_allclose(back, centred / np.linalg.norm(centred, axis=1).max(), atol=2e-5)
    assert np.linalg.norm(back, axis=1).max() == pytest.approx(1, abs=1e-4)
    assert packed(np.zeros((1, 3), np.float32)) == packed(np.ones((1, 3), np.float32))


def test_the_page_allows_its_script_by_hash_and_loads_nothing() -> None:
    page = render("clouds", images=clouds(), labels=[0, 1, 2])
    code = page.split("<script>")[1].split("</script>")[0]
    assert code == script()
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page
    )
    assert not re.search(r"""(src|href)=["'](?!data:|#)|https?://|@import|fetch\(""", page)
    assert "script" not in render("pictures", images=np.zeros((2, 8, 8, 1), np.uint8))


def test_the_first_clouds_are_shown_with_names_for_those_who_do_not_see() -> None:
    body = view(clouds(40), None)
    assert body.count("<canvas") == SHOWN
    assert f"{SHOWN} of 40 samples, 400 points each" in body
    assert 'aria-label="sample 3"' in body
    assert 'aria-label="sample 1, class 7"' in view(clouds(), [2, 7, 2])


def screenshot(page: str, folder: Path) -> np.ndarray:
    (folder / "page.html").write_text(page, encoding="utf-8")
    assert BROWSER is not None
    words = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=3000",
        "--window-size=900,700",
    ]
    command = [
        BROWSER,
        *words,
        f"--user-data-dir={folder / 'profile'}",
        f"--screenshot={folder / 'shot.png'}",
    ]
    subprocess.run([*command, (folder / "page.html").as_uri()], capture_output=True, check=True, timeout=120)
    return np.asarray(Image.open(folder / "shot.png").convert("RGB")).astype(int)


def red(picture: np.ndarray) -> int:
    return int((picture[..., 0] - picture[..., 1:].max(-1) > 60).sum())


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser to look with")
def test_a_browser_draws_the_clouds_and_arrow_keys_turn_them(tmp_path: Path) -> None:
    """A rod along x is shortened by turning it towards the eye; a script that the page does not know is not run."""
    page = render("clouds", images=clouds(1), labels=[3])
    drawn = red(screenshot(page, tmp_path))
    assert drawn > 300
    assert red(screenshot(page.replace('"use strict";', '"use strict"; '), tmp_path)) == 0
    press = (
        "document.querySelector('canvas').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}));"
    )
    free = re.sub(r"<meta http-equiv[^>]*>", "", page)
    turned = free.replace("</body>", f"<script>for (let i = 0; i < 9; i++) {press}</script></body>")
    assert red(screenshot(turned, tmp_path)) < 0.8 * drawn
