"""Closed forms of the small scores."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.stats import mannwhitneyu, norm
from torch import Tensor

from gentool.metrics.inception_score import score
from gentool.metrics.memorisation import copying_z

Draw = Callable[..., Tensor]


def test_inception_score_is_the_number_of_classes_for_sure_and_even_predictions() -> None:
    logits = 1000 * torch.eye(7).repeat(5, 1)
    assert score(logits) == pytest.approx(7, rel=1e-12)


def test_inception_score_is_one_when_every_image_looks_alike(normal: Draw) -> None:
    assert score(normal(1, 10).repeat(20, 1)) == pytest.approx(1, abs=1e-12)


def test_inception_score_by_the_definition(normal: Draw) -> None:
    p = normal(30, 4).softmax(1)
    mean = p.mean(0)
    expected = torch.stack([(row * (row / mean).log()).sum() for row in p]).mean().exp()
    assert score(p.log()) == pytest.approx(float(expected), rel=1e-12)


def test_copying_z_agrees_with_scipy(normal: Draw) -> None:
    a, b = normal(60), normal(45, seed=1) + 0.3
    p = mannwhitneyu(
        a.numpy(), b.numpy(), method="asymptotic", use_continuity=False, alternative="less"
    ).pvalue
    assert norm.cdf(copying_z(a, b)) == pytest.approx(float(p), rel=1e-9)


def test_copying_z_is_standard_normal_for_equal_distributions(normal: Draw) -> None:
    z = torch.tensor([copying_z(normal(40, seed=2 * i), normal(50, seed=2 * i + 1)) for i in range(300)])
    assert abs(float(z.mean())) < 4 / 300**0.5
    assert float(z.std()) == pytest.approx(1, abs=0.15)


def test_copying_z_of_ties_is_zero() -> None:
    assert copying_z(torch.zeros(9), torch.zeros(5)) == 0
