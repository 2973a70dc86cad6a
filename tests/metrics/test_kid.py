"""Kernel distance: parity with torchmetrics, unbiasedness, blocks, seeds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from gentool.errors import UserError
from gentool.metrics import kid
from gentool.metrics.kid import kernel_distance, polynomial_mmd

Draw = Callable[..., Tensor]


def test_parity_with_torchmetrics(normal: Draw) -> None:
    x, y = normal(150, 16), normal(150, 16, seed=1) + 0.2
    assert polynomial_mmd(x, y) == pytest.approx(float(poly_mmd(x, y)), rel=1e-11)


def test_sets_of_other_sizes_by_the_definition(normal: Draw) -> None:
    x, y = normal(7, 3), normal(11, 3, seed=1)

    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    xx = sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / (7 * 6)
    yy = sum(k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / (11 * 10)
    xy = sum(k(a, b) for a in x for b in y) / 77
    assert polynomial_mmd(x, y) == pytest.approx(xx + yy - 2 * xy, rel=1e-12)


def test_blocks_change_nothing(normal: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(90, 5), normal(70, 5, seed=1)
    whole = polynomial_mmd(x, y)
    monkeypatch.setattr(kid, "BLOCK", 16)
    assert polynomial_mmd(x, y) == pytest.approx(whole, rel=1e-12)


def test_unbiased_for_equal_distributions(normal: Draw) -> None:
    """Over 200 pairs of 20 images the mean is 0 within four standard errors; a biased statistic's is not."""
    pairs = [(normal(20, 8, seed=2 * i), normal(20, 8, seed=2 * i + 1)) for i in range(200)]
    values = torch.tensor([polynomial_mmd(x, y) for x, y in pairs])
    error = float(values.std() / 200**0.5)
    assert abs(float(values.mean())) < 4 * error
    biased = torch.tensor([polynomial_mmd(torch.cat([x, x]), torch.cat([y, y])) for x, y in pairs])
    assert float(biased.mean()) > 10 * error


def test_closed_form_of_shifted_gaussians(normal: Draw) -> None:
    """MMD^2 = E[(1 + x.x'/d)^3] + ... for N(0, I) and N(m, I), d = 2, by moments of x.y (Isserlis)."""

    def cube(a: Tensor, b: Tensor) -> float:
        """E (1 + x.y/d)^3 for independent x ~ N(a, I), y ~ N(b, I)."""
        d, s = len(a), float(a @ b)
        aa, bb = float(a @ a), float(b @ b)
        second = s**2 + aa + bb + d
        third = s**3 + 3 * s * (aa + bb + d) + 6 * s
        return 1 + 3 * s / d + 3 * second / d**2 + third / d**3

    zero, m = torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.5], dtype=torch.float64)
    expected = cube(zero, zero) + cube(m, m) - 2 * cube(zero, m)
    value = polynomial_mmd(normal(6000, 2), normal(6000, 2, seed=1) + m)
    assert value == pytest.approx(expected, rel=0.1)


def test_subsets_are_fixed_by_the_seed(normal: Draw) -> None:
    x, y = normal(300, 4), normal(200, 4, seed=1)
    first, again, other = (kernel_distance(x, y, 5, 50, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (5,)


def test_too_few_images(normal: Draw) -> None:
    with pytest.raises(UserError, match="at least two"):
        polynomial_mmd(normal(1, 3), normal(5, 3))
