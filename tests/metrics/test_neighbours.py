"""Neighbours, precision and recall, density and coverage."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from gentool.errors import UserError
from gentool.metrics import neighbours
from gentool.metrics.evidence import Evidence, subset
from gentool.metrics.neighbours import balls, density_coverage, nearest_distances, precision_recall

Draw = Callable[..., Tensor]


def evidence(samples: Tensor, reference: Tensor) -> Evidence:
    sets = [SimpleNamespace(features=z.float(), name="set") for z in (samples, reference)]
    return Evidence(sets[0], sets[1], None, torch.device("cpu"))  # type: ignore[arg-type]


def test_nearest_distances_equal_a_full_sort(normal: Draw) -> None:
    x, y = normal(40, 6), normal(50, 6, seed=1)
    full = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").sort(1).values
    torch.testing.assert_close(nearest_distances(x, y, 4), full[:, :4], rtol=1e-10, atol=1e-12)
    own = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sort(1).values
    torch.testing.assert_close(nearest_distances(x, x, 3), own[:, 1:4], rtol=1e-10, atol=1e-12)


def test_blocks_change_nothing_and_bound_memory(normal: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(100, 6), normal(90, 6, seed=1)
    whole = nearest_distances(x, y, 3), nearest_distances(x, x, 3)
    counts = balls(y, x, whole[1][:, -1])
    sizes: list[int] = []
    real = neighbours._squared
    monkeypatch.setattr(neighbours, "BLOCK", 32)
    monkeypatch.setattr(neighbours, "_squared", lambda a, b: sizes.append(len(a) * len(b)) or real(a, b))
    torch.testing.assert_close(nearest_distances(x, y, 3), whole[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(nearest_distances(x, x, 3), whole[1], rtol=1e-10, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(balls(y, x, whole[1][:, -1]), counts))
    assert max(sizes) == 32 * 32


def test_distances_survive_a_far_origin(normal: Draw) -> None:
    """Inner products of features with a large common mean would cancel; they are centred first."""
    x, y = normal(30, 4), normal(30, 4, seed=1)
    torch.testing.assert_close(
        nearest_distances(x + 1e6, y + 1e6, 1), nearest_distances(x, y, 1), rtol=1e-6, atol=1e-7
    )


def test_a_copy_is_a_neighbour_at_zero(normal: Draw) -> None:
    x = normal(10, 3)
    assert nearest_distances(torch.cat([x, x]), x, 1).max() < 1e-7
    twice = torch.cat([x, x])
    assert nearest_distances(twice, twice, 1).max() < 1e-7


def test_identical_sets(normal: Draw) -> None:
    """Everything is inside; each ball holds its centre and k neighbours: density is (k + 1)/k exactly."""
    x = normal(300, 8)
    assert precision_recall(evidence(x, x)).values == {"precision": 1, "recall": 1}
    assert density_coverage(evidence(x, x)).values == pytest.approx({"density": 6 / 5, "coverage": 1})


def test_disjoint_sets(normal: Draw) -> None:
    x = normal(100, 8)
    assert precision_recall(evidence(x, x + 100)).values == {"precision": 0, "recall": 0}
    assert density_coverage(evidence(x, x + 100)).values == {"density": 0, "coverage": 0}


def test_equal_distributions(normal: Draw) -> None:
    """Naeem et al. 2020: E density = 1, E coverage = 1 - C(N-1, k)/C(2N-1, k), whatever the features."""
    draws = [
        density_coverage(evidence(normal(400, 8, seed=i), normal(400, 8, seed=50 + i))).values
        for i in range(8)
    ]
    assert sum(d["density"] for d in draws) / 8 == pytest.approx(1, abs=0.05)
    n, k, ratio = 400, 5, 1.0
    for i in range(k):
        ratio *= (n - 1 - i) / (2 * n - 1 - i)
    assert sum(d["coverage"] for d in draws) / 8 == pytest.approx(1 - ratio, abs=0.01)


def test_a_collapsed_mode_costs_recall_not_precision(normal: Draw) -> None:
    values = precision_recall(evidence(normal(300, 4) * 0.05, normal(300, 4, seed=1))).values
    assert values["precision"] > 0.99
    assert values["recall"] < 0.2


def test_a_far_outlier_of_the_reference_does_not_raise_density(normal: Draw) -> None:
    """The failure of precision that density was made for (Naeem et al., figure 1)."""
    reference = normal(200, 2)
    reference[0] = torch.tensor([40.0, 0.0])
    samples = torch.tensor([20.0, 0.0], dtype=torch.float64) + normal(200, 2, seed=1)
    values = evidence(samples, reference)
    assert precision_recall(values).values["precision"] > 0.9
    assert density_coverage(values).values["density"] < 0.3


def test_other_counts_are_made_equal(normal: Draw) -> None:
    judged = precision_recall(evidence(normal(50, 3), normal(400, 3, seed=1)))
    assert judged.details == {"k": 3, "count": 50}


def test_subsets_are_seeded_and_without_replacement() -> None:
    rows = torch.arange(100)
    assert torch.equal(subset(rows, 30, 0), subset(rows, 30, 0))
    assert len(set(subset(rows, 30, 1).tolist())) == 30
    assert torch.equal(subset(rows, 100, 0), rows)


def test_too_few_images(normal: Draw) -> None:
    x = normal(3, 2)
    with pytest.raises(UserError, match="need at least 4 images, there are 3"):
        precision_recall(evidence(x, x))
