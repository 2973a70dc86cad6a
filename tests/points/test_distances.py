"""Chamfer and earth mover's distances: closed forms, brute force, gradients."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from gentool.points.distances import approximate_match, chamfer, emd


def clouds(count: int, size: int, seed: int = 0) -> Tensor:
    return torch.rand(count, size, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def golden() -> tuple[Tensor, Tensor]:
    return torch.tensor([[[0.0, 0, 0], [1, 0, 0]]]), torch.tensor([[[0.0, 0.1, 0], [1, 0.2, 0]]])


def test_chamfer_is_its_definition() -> None:
    x, y = clouds(3, 20), clouds(3, 14, seed=1)
    squares = (x[:, :, None] - y[:, None]).square().sum(3)
    torch.testing.assert_close(chamfer(x, y), squares.amin(2).mean(1) + squares.amin(1).mean(1))


def test_chamfer_of_a_small_shift_is_twice_its_square() -> None:
    grid = torch.cartesian_prod(*[torch.arange(4.0)] * 3)[None]
    shift = torch.tensor([0.1, -0.2, 0.05])
    torch.testing.assert_close(chamfer(grid, grid + shift), 2 * shift.square().sum()[None], rtol=1e-4, atol=0)


def test_two_points_by_hand() -> None:
    """CD = 2 (0.01 + 0.04) / 2; the approximate EMD moves each point to its own: (0.01 + 0.04) / 2."""
    x, y = golden()
    assert chamfer(x, y).item() == pytest.approx(0.05, rel=1e-5)
    assert emd(x, y).item() == pytest.approx(0.025, rel=1e-3)
    assert emd(x, y, "exact").item() == pytest.approx(0.15, rel=1e-5)


def test_exact_emd_is_the_best_of_all_matchings() -> None:
    x, y = clouds(2, 6), clouds(2, 6, seed=1)
    for b, found in enumerate(emd(x, y, "exact").tolist()):
        away = torch.cdist(x[b], y[b])
        best = min(sum(away[i, j].item() for i, j in enumerate(order)) for order in permutations(range(6)))
        assert found == pytest.approx(best / 6, rel=1e-9)


def test_exact_emd_of_a_reordered_cloud_is_zero_and_of_a_shifted_one_the_shift() -> None:
    x = clouds(1, 50)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert emd(x, x[:, order], "exact").item() == 0
    shift = torch.tensor([0.3, 0.0, 0.4], dtype=torch.float64)  # W1 of a translation is its length
    assert emd(x, (x + shift)[:, order], "exact").item() == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("blur", [0.3, 0.1, 0.03])
def test_entropic_emd_exceeds_the_exact_one_by_at_most_its_entropy(blur: float) -> None:
    x, y = clouds(3, 40), clouds(3, 40, seed=1)
    excess = emd(x, y, "sinkhorn", blur) - emd(x, y, "exact")
    assert (excess >= -1e-3 * blur).all()
    assert (excess <= blur * math.log(40)).all()


def test_the_approximate_matching_moves_all_mass_and_no_more() -> None:
    match = approximate_match(clouds(2, 64), clouds(2, 64, seed=1))
    assert match.min() >= 0
    for sums in (match.sum(1), match.sum(2)):
        assert sums.max() <= 1 + 1e-6
        assert sums.mean() > 0.99


def test_the_approximate_form_is_above_the_optimum_and_asymmetric() -> None:
    """What distinguishes it from the others; uniform cubes of 256 points: about 0.066 against 0.022."""
    x, y = clouds(1, 256), clouds(1, 256, seed=1)
    forth, back = emd(x, y).item(), emd(y, x).item()
    from scipy.optimize import linear_sum_assignment

    squares = torch.cdist(x[0], y[0]).square().numpy()
    best = squares[linear_sum_assignment(squares)].mean()
    assert 2 * best < forth < 4 * best
    assert forth == pytest.approx(back, rel=0.1)
    assert forth != pytest.approx(back, rel=1e-3)


@pytest.mark.parametrize("form", ["exact", "sinkhorn"])
def test_gradients_are_finite_differences(form: str) -> None:
    x, y = clouds(1, 8).requires_grad_(), clouds(1, 8, seed=1)
    extra = 0.2  # smooth enough for differences
    assert torch.autograd.gradcheck(lambda x: emd(x, y, form, extra), (x,), atol=1e-4)  # type: ignore[arg-type]
    assert torch.autograd.gradcheck(lambda x: chamfer(x, y), (x,))


def test_the_gradient_of_the_approximate_form_holds_the_matching_fixed() -> None:
    x, y = clouds(1, 8).requires_grad_(), clouds(1, 8, seed=1)
    emd(x, y).sum().backward()
    match = approximate_match(x, y)
    expected = 2 * (match[..., None] * (x[:, :, None] - y[:, None])).sum(2) / 8
    torch.testing.assert_close(x.grad, expected.detach())


def test_clouds_of_different_sizes_cannot_be_matched() -> None:
    with pytest.raises(ValueError, match="one size"):
        emd(clouds(1, 4), clouds(1, 5))
