"""The report: well formed, self-contained, escaped, complete, and readable by people and machines."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gentool.metrics.curve import POINTS, line_chart
from gentool.metrics.report import NOT_PRIVATE, render

VOID = {"meta", "img", "line", "path"}

EVALUATION = {
    "metrics": {"fid": 3.14159265, "recall": 0.5, "bits-per-dim": 2.5, "broken": float("nan")},
    "features": "classifier",
    "extractor": "accuracy 0.99",
    "preprocessing": "x / 127.5 - 1",
    "reference": "digits train",
    "reference_count": 900,
    "reference_fingerprint": "abc123",
    "count": 450,
    "details": {"fid": {"samples": 450}, "empty": {}},
    "warnings": ["few images"],
}


class Reader(HTMLParser):
    """Checks that every element is closed in order, and keeps the text, ids and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.attributes if name == tag]


def full(**more: Any) -> str:
    rng = np.random.default_rng(0)
    arguments: dict[str, Any] = {
        "summary": "A small model.",
        "evaluations": [EVALUATION],
        "images": rng.integers(0, 256, (70, 8, 8, 1), dtype=np.uint8),
        "labels": [i % 10 for i in range(70)],
        "loss": [(i, 1 / (i + 1)) for i in range(100)],
        "recipe": "family: edm\nseed: 0\n",
        "provenance": {
            "gentool": "0.1",
            "versions": {"torch": "2.13"},
            "steps": 100,
            "command": ["gentool", "train"],
        },
        "warnings": ["mind the step"],
    }
    return render("digits", **(arguments | more))


def test_well_formed_with_everything_in_it() -> None:
    page = Reader(full())
    for text in (
        "digits", "A small model.", "3.1416", "lower is better", "higher is better", "undefined",
        "bits-per-dim",
        "classifier", "accuracy 0.99", "x / 127.5 - 1", "digits train", "900", "abc123", "450", "few images",
        "mind the step", "64 of 70 samples", "family: edm", "versions.torch", "2.13", '["gentool", "train"]',
        NOT_PRIVATE,
    ):  # fmt: skip
        assert text in page.text, text
    assert "empty" not in page.text


def test_every_link_leads_to_a_section_and_headings_do_not_skip() -> None:
    page = Reader(full())
    ids = [attrs["id"] for _, attrs in page.attributes if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"] for attrs in page.all("a")} <= {f"#{name}" for name in ids}
    assert all(attrs["aria-labelledby"] in ids for attrs in page.all("section") + page.all("svg"))
    assert [tag for tag, _ in page.attributes if re.fullmatch("h[1-6]", tag)] == ["h1"] + ["h2"] * 7
    assert all(attrs.get("alt") for attrs in page.all("img"))
    assert all(attrs.get("scope") for attrs in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]


def test_nothing_is_loaded_and_nothing_runs() -> None:
    page = full()
    assert not Reader(page).all("script")
    assert not re.search(r"(?:src|href)=\"(?!data:image/png;base64,|#)", page)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_everything_from_outside_is_escaped() -> None:
    bad = "</code></pre><script>alert('x')</script>\"&"
    evaluation = EVALUATION | dict.fromkeys(("features", "extractor", "preprocessing", "reference"), bad)
    evaluation |= {"metrics": {bad: 1.0}, "details": {bad: {"a": bad}}, "warnings": [bad]}
    page = full(
        summary=bad,
        evaluations=[evaluation],
        recipe=bad,
        provenance={bad: bad, "n": [bad]},
        warnings=[bad],
        privacy=bad,
    )
    assert "<script" not in page
    assert Reader(page).text.count("<script>alert('x')</script>") >= 11
    assert "<script" not in render(bad)


def test_the_grid_holds_the_pixels() -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    page = Reader(full(images=images, labels=None))
    source = page.all("img")[0]["src"] or ""
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))))
    assert sheet.shape == (2 * 5 - 1, 3 * 7 - 1, 3)
    for i, image in enumerate(images):
        top, left = i // 3 * 5, i % 3 * 7
        np.testing.assert_array_equal(sheet[top : top + 4, left : left + 6], image)
    assert "5 samples, 4x6" in page.text


def test_figures_of_two_extractors_stand_in_two_tables() -> None:
    page = full(evaluations=[EVALUATION, EVALUATION | {"features": "pixels"}])
    assert page.count("What it is") == 2


def test_an_empty_report_still_states_privacy() -> None:
    page = Reader(render("nothing yet"))
    assert NOT_PRIVATE in page.text
    assert len(page.all("section")) == 1


def coordinates(svg: str, name: str) -> np.ndarray:
    found = re.search(rf'class="{name}" d="M([^"]+)"', svg)
    assert found
    return np.array([list(map(float, pair.split())) for pair in found[1].split("L")])


def test_the_curve_is_drawn_to_scale() -> None:
    """A straight line stays straight, rises upwards, and spans the width."""
    svg = line_chart([(x, 2 * x + 1) for x in range(11)], "step", "loss")
    points = coordinates(svg, "raw")
    np.testing.assert_allclose(np.diff(points[:, 0]), points[1, 0] - points[0, 0], atol=0.11)
    np.testing.assert_allclose(np.diff(points[:, 1]), points[1, 1] - points[0, 1], atol=0.11)
    assert points[-1, 1] < points[0, 1]
    assert "from 1 at 0 to 21 at 10" in svg


def test_a_wide_range_gets_a_logarithmic_axis() -> None:
    """A geometric curve becomes a straight line between powers of ten."""
    svg = line_chart([(x, 10.0**-x) for x in range(5)], "step", "loss")
    np.testing.assert_allclose(np.diff(coordinates(svg, "raw")[:, 1]), 53.5, atol=0.11)
    assert re.findall(r'text-anchor="end">([^<]+)<', svg)[:5] == ["0.0001", "0.001", "0.01", "0.1", "1"]


def test_long_curves_are_thinned_and_smoothing_keeps_a_line() -> None:
    svg = line_chart([(x, float(x)) for x in range(50_000)], "step", "loss")
    raw, smooth = coordinates(svg, "raw"), coordinates(svg, "smooth")
    assert len(raw) == POINTS
    np.testing.assert_allclose(smooth, raw, atol=0.11)
    assert len(svg) < 20_000


@pytest.mark.parametrize("points", [[], [(1, 1.0)], [(1, 1.0), (2, float("nan"))], [(3, 1.0), (3, 2.0)]])
def test_nothing_to_draw(points: list[tuple[float, float]]) -> None:
    assert line_chart(points, "step", "loss") == ""


@pytest.mark.parametrize("level", [0.0, 5.0, -3.0])
def test_a_constant_is_drawn(level: float) -> None:
    assert np.ptp(coordinates(line_chart([(0, level), (1, level)], "step", "loss"), "raw")[:, 1]) == 0
