"""Measures of strokes: of lines whose slant and thickness are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gentool.metrics.strokes import measure


def stroke(slope: float, width: float = 2.0, shift: float = 0.0, size: int = 48) -> Tensor:
    """A straight stroke up the middle of a picture (1, 1, size, size), `slope` columns to the right a row upwards."""
    rows = torch.arange(size, dtype=torch.float64)[:, None] - (size - 1) / 2
    columns = torch.arange(size, dtype=torch.float64)[None, :] - (size - 1) / 2
    across = (columns + slope * rows - shift).abs()
    inside = (width / 2 + 0.5 - across).clamp(0, 1) * (rows.abs() < size / 3)
    return (2 * inside - 1)[None, None].float()


@pytest.mark.parametrize("slope", [-0.5, 0.0, 0.3])
def test_slant_is_the_shear_wherever_the_stroke_lies(slope: float) -> None:
    for shift in (-4.0, 0.0, 3.5):
        assert float(measure("slant", stroke(slope, shift=shift))) == pytest.approx(slope, abs=0.02)
    assert float(measure("slant", stroke(slope).flip(3))) == pytest.approx(-slope, abs=0.02)


def test_thickness_and_ink_grow_with_the_stroke_and_not_with_the_place() -> None:
    thin, thick = (stroke(0.2, width=w) for w in (1.5, 4.5))
    for name in ("thickness", "ink"):
        assert float(measure(name, thick)) == pytest.approx(3 * float(measure(name, thin)), rel=0.05)  # type: ignore[arg-type]
        assert float(measure(name, stroke(0.2, shift=5))) == pytest.approx(
            float(measure(name, stroke(0.2))), rel=0.01
        )  # type: ignore[arg-type]
    # for a long thin stroke of length L the radius of gyration is L/sqrt(12)
    assert float(measure("thickness", stroke(0, width=2))) == pytest.approx(2 * 12**0.5, rel=0.03)


def test_pictures_without_ink_and_values_out_of_range() -> None:
    empty = -torch.ones(2, 1, 8, 8)
    for name in ("slant", "thickness", "ink"):
        assert measure(name, empty).tolist() == [0, 0]  # type: ignore[arg-type]
    x = stroke(0.3)
    torch.testing.assert_close(measure("slant", torch.where(x > 0.9, 5.0, x)), measure("slant", x))
    colour = x.expand(-1, 3, -1, -1)
    torch.testing.assert_close(measure("thickness", colour), measure("thickness", x))
