"""Nearest neighbours of features, by blocks, and the metrics of manifolds made of k-NN balls.

Distances are Euclidean and computed in float64 through inner products of centred features.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gentool.errors import UserError
from gentool.metrics.evidence import Evidence, Judgement, subset

BLOCK = 2048
"""Rows of a block: no more than BLOCK x BLOCK distances exist at once."""
TIE = 1e-12
"""Distances whose squares differ by less than this share of the largest squared norm count as equal."""


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """(n, m) squared distances of x (n, d) and y (m, d), float64."""
    products = x @ y.T
    return products.mul_(-2).add_(x.square().sum(1, keepdim=True)).add_(y.square().sum(1)).clamp_(min=0)


def _blocks(x: Tensor, centre: Tensor) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(x), BLOCK):
        yield start, x[start : start + BLOCK].double() - centre


def nearest_distances(x: Tensor, y: Tensor, k: int) -> Tensor:
    """Distances from each row of x (n, d) to its k nearest rows of y (m, d): (n, k) float64, ascending.

    When y is the same tensor as x, a row is not its own neighbour (a copy of it is).

    Raises:
        UserError: y has no k rows (k + 1, when y is x).
    """
    if len(y) < k + (y is x):
        raise UserError(f"{k} nearest neighbours need at least {k + (y is x)} images, there are {len(y)}")
    centre = y.double().mean(0)
    out = []
    for i, rows in _blocks(x, centre):
        best = rows.new_empty(len(rows), 0)
        for j, others in _blocks(y, centre):
            distances = _squared(rows, others)
            if y is x and i == j:
                distances.fill_diagonal_(float("inf"))
            best = torch.cat([best, distances], 1)
            best = best.topk(min(k, best.shape[1]), largest=False).values
        out.append(best)
    return torch.cat(out).sqrt_()


def balls(points: Tensor, centres: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
    """How many balls hold each point (n,), and how many points each ball holds (m,): int64.

    The balls, at `centres` (m, d) with `radii` (m,), are closed: a point on the rim is inside.
    """
    centre = centres.double().mean(0)
    slack = TIE * max((z.double() - centre).square().sum(1).max() for z in (points, centres))
    per_point = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    per_ball = torch.zeros(len(centres), dtype=torch.int64, device=points.device)
    for i, rows in _blocks(points, centre):
        for j, others in _blocks(centres, centre):
            inside = _squared(rows, others) <= radii[j : j + BLOCK].square() + slack
            per_point[i : i + BLOCK] += inside.sum(1)
            per_ball[j : j + BLOCK] += inside.sum(0)
    return per_point, per_ball


def _pair(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Samples and reference in equal numbers: k-NN radii shrink with the number of images."""
    samples, reference = evidence.samples.features, evidence.reference.features
    size = min(len(samples), len(reference))
    return subset(samples, size, evidence.seed), subset(reference, size, evidence.seed)


def precision_recall(evidence: Evidence, k: int = 3) -> Judgement:
    """Improved precision and recall (Kynkaanniemi et al. 2019, equations 1 and 2), each in [0, 1].

    Precision is the share of samples inside a k-NN ball of the reference (fidelity), recall the share of the
    reference inside a k-NN ball of the samples (variety).
    """
    samples, reference = _pair(evidence)
    in_reference, _ = balls(samples, reference, nearest_distances(reference, reference, k)[:, -1])
    in_samples, _ = balls(reference, samples, nearest_distances(samples, samples, k)[:, -1])
    values = {
        "precision": float((in_reference > 0).double().mean()),
        "recall": float((in_samples > 0).double().mean()),
    }
    return Judgement(values, {"k": k, "count": len(samples)})


def density_coverage(evidence: Evidence, k: int = 5) -> Judgement:
    """Density and coverage (Naeem et al. 2020, equations 3 and 4).

    Density, in [0, inf) and 1 on average for equal distributions, counts the reference balls around each
    sample over k; coverage, in [0, 1], is the share of reference balls that hold a sample.
    """
    samples, reference = _pair(evidence)
    per_sample, per_ball = balls(samples, reference, nearest_distances(reference, reference, k)[:, -1])
    values = {
        "density": float(per_sample.double().mean() / k),
        "coverage": float((per_ball > 0).double().mean()),
    }
    return Judgement(values, {"k": k, "count": len(samples)})
