"""Frechet distance: closed forms, invariances, singular covariances, parity with torchmetrics."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance, _compute_fid

from gentool.errors import UserError
from gentool.metrics.frechet import frechet_distance
from gentool.metrics.moments import Gaussian, Moments

Draw = Callable[..., Tensor]


def fitted(x: Tensor) -> Gaussian:
    return Gaussian(len(x), x.mean(0), x.T.cov())


def test_closed_form_of_commuting_covariances() -> None:
    """Diagonal Gaussians: |m1 - m2|^2 + sum (s1 - s2)^2."""
    m1, m2 = torch.tensor([[0.0, 1.0, 2.0], [1.0, -1.0, 2.5]], dtype=torch.float64)
    s1, s2 = torch.tensor([[1.0, 2.0, 3.0], [0.5, 2.0, 4.0]], dtype=torch.float64)
    value = frechet_distance(Gaussian(9, m1, (s1**2).diag()), Gaussian(9, m2, (s2**2).diag()))
    assert value == pytest.approx(float(((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()), rel=1e-13)


def test_closed_form_in_one_dimension() -> None:
    one = [
        Gaussian(9, torch.tensor([m]).double(), torch.tensor([[v]]).double())
        for m, v in ((1.0, 4.0), (3.0, 9.0))
    ]
    assert frechet_distance(*one) == pytest.approx(4 + 1, rel=1e-14)


def test_closed_form_of_two_by_two() -> None:
    """tr of the root of a 2 x 2 product is sqrt(tr + 2 sqrt(det))."""
    a, b = torch.tensor([[[2.0, 1.0], [1.0, 3.0]], [[1.0, -0.4], [-0.4, 0.7]]], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    root = ((a @ b).trace() + 2 * torch.linalg.det(a @ b).sqrt()).sqrt()
    expected = float(a.trace() + b.trace() - 2 * root)
    assert frechet_distance(Gaussian(9, zero, a), Gaussian(9, zero, b)) == pytest.approx(expected, rel=1e-12)


def test_a_distance_of_a_set_to_itself_is_zero_and_it_is_symmetric(normal: Draw) -> None:
    a, b = fitted(normal(300, 20)), fitted(normal(200, 20, seed=1) * 1.5 + 0.3)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-11)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


def test_rotations_and_shifts_of_both_sets_change_nothing(normal: Draw) -> None:
    x, y = normal(200, 15), normal(150, 15, seed=1) * 2
    rotation = torch.linalg.qr(normal(15, 15, seed=2)).Q
    moved = frechet_distance(fitted(x @ rotation + 5), fitted(y @ rotation + 5))
    assert moved == pytest.approx(frechet_distance(fitted(x), fitted(y)), rel=1e-11)


@pytest.mark.parametrize(("n", "m"), [(2000, 3000), (50, 3000), (2000, 40), (30, 40)])
def test_parity_with_torchmetrics_formula(normal: Draw, n: int, m: int) -> None:
    """Also with fewer images than dimensions, where torchmetrics' own round-off allows 1e-6."""
    mix = normal(64, 64, seed=9) * torch.logspace(0, -2, 64, dtype=torch.float64)
    a, b = fitted(normal(n, 64) @ mix), fitted(normal(m, 64, seed=1) @ mix + 0.1)
    theirs = float(_compute_fid(a.mean, a.covariance, b.mean, b.covariance))
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-10 if min(n, m) > 64 else 1e-6)


def test_parity_with_torchmetrics_on_images(digits: tuple) -> None:
    """From uint8 images through the same features to the same figure."""
    images = torch.from_numpy(digits[0].transpose(0, 3, 1, 2).copy())

    class Halves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.double().flatten(1)[:, 2::2] / 255

    theirs = FrechetInceptionDistance(Halves(), input_img_size=(1, 8, 8)).set_dtype(torch.float64)
    ours = []
    for part, real in ((images[:900], True), (images[900:], False)):
        moments = Moments(31)
        for x in part.split(128):
            theirs.update(x, real=real)
            moments.update(Halves()(x))
        ours.append(moments.compute())
    assert frechet_distance(*ours) == pytest.approx(float(theirs.compute()), rel=1e-9)


def test_exact_for_singular_covariances(normal: Draw) -> None:
    """Rank 1 each: the nuclear norm of A'B is |u.v|; the square root of round-off would show at 1e-8."""
    u, v = normal(400), normal(400, seed=1)
    zero = torch.zeros(400, dtype=torch.float64)
    value = frechet_distance(Gaussian(2, zero, torch.outer(u, u)), Gaussian(2, zero, torch.outer(v, v)))
    assert value == pytest.approx(float(u @ u + v @ v - 2 * (u @ v).abs()), rel=1e-13)


def test_a_singular_set_is_at_zero_from_itself(normal: Draw) -> None:
    few = fitted(normal(20, 200))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-10)


def test_dead_features_count_for_nothing(normal: Draw) -> None:
    x, y = normal(300, 10), normal(300, 10, seed=1) + 1
    padded = [fitted(torch.cat([z, torch.zeros(300, 5, dtype=torch.float64)], 1)) for z in (x, y)]
    assert frechet_distance(*padded) == pytest.approx(frechet_distance(fitted(x), fitted(y)), rel=1e-11)


def test_equal_constants_are_at_zero() -> None:
    still = Gaussian(9, torch.ones(4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64))
    assert frechet_distance(still, still) == 0


def test_refusals(normal: Draw) -> None:
    a = fitted(normal(30, 4))
    with pytest.raises(UserError, match="of 4 and of 5 dimensions"):
        frechet_distance(a, fitted(normal(30, 5)))
    with pytest.raises(UserError, match="not finite"):
        frechet_distance(a, a._replace(covariance=a.covariance * float("nan")))


@pytest.mark.slow
@pytest.mark.parametrize("n", [5000, 500])
def test_parity_with_torchmetrics_at_the_size_of_inception_features(normal: Draw, n: int) -> None:
    mix = torch.logspace(0, -2, 2048, dtype=torch.float64)
    a, b = fitted(normal(n, 2048) * mix), fitted(normal(5000, 2048, seed=1) * mix + 0.01)
    theirs = float(_compute_fid(a.mean, a.covariance, b.mean, b.covariance))
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-6)
