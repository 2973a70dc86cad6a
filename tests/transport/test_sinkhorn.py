"""Entropic transport against closed forms, limits and a brute-force assignment."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gentool.transport.cost import MixedCost, with_labels
from gentool.transport.sinkhorn import Annealing, diameter, plan, softmin, solve, transport

SQUARED = MixedCost(l2=1.0, l1=0.0)
MIXED = MixedCost()


def points(count: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def even(count: int) -> Tensor:
    return torch.full((count,), -math.log(count), dtype=torch.float64)


def gradient(x: Tensor, y: Tensor, cost: MixedCost, annealing: Annealing) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(transport(x, y, cost, annealing), x)[0]


# Costs


def test_the_mixed_cost_is_the_formula() -> None:
    x, y = points(5, 7), points(4, 7, seed=1)
    gap = x[:, None] - y[None]
    expected = 0.5 * gap.square().sum(-1) + 3 * gap.abs().sum(-1)
    torch.testing.assert_close(MixedCost(0.5, 3.0)(x, y), expected)
    stacked = MixedCost(0.5, 3.0)(torch.stack([x, x]), torch.stack([y, -y]))
    torch.testing.assert_close(stacked[0], expected)


def test_the_gradient_of_the_absolute_value_is_zero_at_zero() -> None:
    x = points(3, 4).requires_grad_()
    (found,) = torch.autograd.grad(MixedCost(0.0, 1.0)(x, x.detach()).diagonal().sum(), x)
    assert torch.equal(found, torch.zeros_like(found))


def test_a_wrong_class_costs_what_the_paper_says() -> None:
    """2 * 15^2 + m * 2 * 15 = 450 + 30 m."""
    image = torch.zeros(2, 6)
    x = with_labels(image, torch.tensor([0, 2]), 3, 15.0)
    assert x.shape == (2, 9)
    for m in (1.0, 3.0):
        assert float(MixedCost(1.0, m)(x[:1], x[1:])) == pytest.approx(450 + 30 * m)
    assert with_labels(image, torch.tensor([-1, -1]), 0, 15.0) is image


# The levels of eps


def test_the_levels_halve_from_the_diameter_to_the_blur() -> None:
    """As numpy's arange over the logarithms counts them, which is how the method's reference code does."""
    for exponent, blur, across in ((1.0, 0.05, 73.4), (2.0, 5.0, 110.0)):
        found = Annealing(blur, exponent).levels(across)
        logs = np.arange(exponent * np.log(across), exponent * np.log(blur), exponent * np.log(0.5))
        assert found == pytest.approx([across**exponent, *np.exp(logs), blur**exponent])
    assert len(Annealing(0.05).levels(73.4)) == 13
    assert Annealing(0.05, extra=3).levels(73.4)[-4:] == [0.05] * 4
    assert Annealing(2.0, 2.0).levels(0.0) == [4.0, 4.0]


def test_the_diameter_is_that_of_the_box_around_both_sets() -> None:
    assert diameter(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([[5.0, -11.0]])) == 13


# Values and gradients


def test_one_point_moves_to_one_point() -> None:
    x, y = points(1, 6), points(1, 6, seed=1)
    annealing = Annealing(0.05)
    assert float(transport(x, y, MIXED, annealing)) == pytest.approx(float(MIXED(x, y)))
    expected = 2 * (x - y) + (x - y).sign()
    torch.testing.assert_close(gradient(x, y, MIXED, annealing), expected)


def test_two_by_two() -> None:
    """Costs (0, d; d, 0): the plan's diagonal is 1 / (2 (1 + e^(-d/eps))), W = -eps log((1 + e^(-d/eps)) / 2)."""
    d, eps = 1.3, 0.4
    cost = torch.tensor([[0.0, d], [d, 0.0]], dtype=torch.float64)
    dual = solve(cost, even(2), even(2), [eps] * 60)
    found = plan(cost, even(2), even(2), dual)
    assert float(found[0, 0]) == pytest.approx(1 / (2 * (1 + math.exp(-d / eps))), abs=1e-12)
    assert float(found[0, 0]) == pytest.approx(0.48133656, abs=1e-8)
    value = float(dual.f.mean() + dual.g.mean())
    assert value == pytest.approx(-eps * math.log((1 + math.exp(-d / eps)) / 2), abs=1e-12)
    assert value == pytest.approx(0.26204232, abs=1e-8)


def test_gaussians_on_a_line() -> None:
    """N(0, a^2) and N(mu, b^2) (Janati et al. 2020, theorem 1), on a grid with weights."""
    a, b, mu, eps = 1.0, 0.6, 0.8, 0.5
    grid = torch.linspace(-6, 7, 500, dtype=torch.float64)
    weights = [torch.exp(-((grid - m) ** 2) / (2 * s * s)) + 1e-300 for m, s in ((0.0, a), (mu, b))]
    weights = [w / w.sum() for w in weights]
    d = math.sqrt(16 * a * a * b * b + eps * eps)
    exact = mu**2 + a * a + b * b - d / 2 + eps / 2 * (1 - math.log(2 * eps) + math.log(d + eps))
    assert exact == pytest.approx(1.2948159, abs=1e-7)
    line = grid[:, None]
    annealing = Annealing(math.sqrt(eps), 2.0, extra=20)
    assert float(transport(line, line, SQUARED, annealing, *weights)) == pytest.approx(exact, abs=2e-7)


def test_little_regularisation_is_the_best_assignment() -> None:
    """Of points whose second best assignment is clearly worse: near a tie the plan splits for long."""
    x, y = points(6, 3, seed=10), points(6, 3, seed=20)
    rows, columns = linear_sum_assignment(MIXED(x, y).numpy())
    assert columns.tolist() != list(range(6))
    best = float(MIXED(x, y)[rows, columns].mean())
    annealing = Annealing(0.02, scaling=0.8, extra=2000)
    # eps times the plan's relative entropy, log n for an assignment, comes on top
    assert float(transport(x, y, MIXED, annealing)) == pytest.approx(best + annealing.eps * math.log(6))
    gap = x - y[torch.from_numpy(columns)]
    torch.testing.assert_close(
        gradient(x, y, MIXED, annealing), (2 * gap + gap.sign()) / 6, atol=1e-7, rtol=0
    )


def test_much_regularisation_is_the_product_coupling() -> None:
    x, y = points(5, 3), points(8, 3, seed=1)
    annealing = Annealing(1e6)
    assert float(transport(x, y, SQUARED, annealing)) == pytest.approx(float(SQUARED(x, y).mean()), rel=1e-5)
    expected = 2 * (x[:, None] - y[None]).mean(1) / 5
    torch.testing.assert_close(gradient(x, y, SQUARED, annealing), expected, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_the_values_derivative_at_convergence() -> None:
    """Envelope theorem: both sides' gradients against finite differences."""
    x, y = points(6, 2).requires_grad_(), points(5, 2, seed=1).requires_grad_()
    annealing = Annealing(0.7, 2.0, extra=400)
    ours = torch.autograd.grad(transport(x, y, SQUARED, annealing), (x, y))
    h = 1e-5
    for which, found in enumerate(ours):
        bump = torch.zeros_like(found)
        bump[2, 1] = h
        ends = []
        for sign in (1, -1):
            moved = [x.detach(), y.detach()]
            moved[which] = moved[which] + sign * bump
            ends.append(float(transport(*moved, SQUARED, annealing)))
        assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(float(found[2, 1]), rel=1e-6, abs=1e-9)


def test_the_gradient_of_each_point_is_a_mean_over_its_row_of_the_plan() -> None:
    """Also far from convergence: rows of the plan sum to the weights exactly, so gradients stay bounded."""
    x, y = 4 * points(7, 5), 4 * points(9, 5, seed=1)
    annealing = Annealing(0.05)
    cost, levels = MIXED(x, y), annealing.levels(diameter(x, y))
    coupling = plan(cost, even(7), even(9), solve(cost, even(7), even(9), levels))
    torch.testing.assert_close(coupling.sum(1), torch.full((7,), 1 / 7, dtype=torch.float64))
    assert (coupling.sum(0) - 1 / 9).abs().max() > 1e-3  # columns need extra iterations
    each = 2 * (x[:, None] - y[None]) + (x[:, None] - y[None]).sign()
    found = gradient(x, y, MIXED, annealing)
    torch.testing.assert_close(found, (coupling[..., None] * each).sum(1))
    assert bool((found.norm(dim=1) <= each.norm(dim=2).amax(1) / 7 + 1e-12).all())


def test_columns_too_sum_to_their_weights_after_extra_iterations() -> None:
    x, y = points(7, 3), points(9, 3, seed=1)
    levels = Annealing(1.0, extra=300).levels(diameter(x, y))
    coupling = plan(MIXED(x, y), even(7), even(9), solve(MIXED(x, y), even(7), even(9), levels))
    torch.testing.assert_close(
        coupling.sum(0), torch.full((9,), 1 / 9, dtype=torch.float64), atol=1e-7, rtol=0
    )


@pytest.mark.parametrize(
    ("l1", "blur", "exponent", "value", "of_x", "of_y"),
    [
        (
            1.0,
            0.05,
            1.0,
            15.5192642080,
            [0.4311537471, 0.6059185534, -2.0421059434],
            [-1.0571187824, -0.2664808264, -0.6771121212],
        ),
        (
            0.0,
            1.5,
            2.0,
            13.7409160044,
            [-0.2931627899, -0.1372844347, -1.1906964272],
            [-0.7323662946, 0.01588718, -0.5128573614],
        ),
    ],
)
def test_short_of_convergence_it_is_what_the_paper_trained_with(
    l1: float, blur: float, exponent: float, value: float, of_x: list[float], of_y: list[float]
) -> None:
    """Value and two points' gradients as geomloss 0.2.5 gives them (SamplesLoss without debiasing, same cost)."""
    x = (3 * torch.sin(torch.arange(12, dtype=torch.float64))).view(4, 3).requires_grad_()
    y = (3 * torch.cos(1.7 * torch.arange(15, dtype=torch.float64))).view(5, 3).requires_grad_()
    found = transport(x, y, MixedCost(1.0, l1), Annealing(blur, exponent))
    gradients = torch.autograd.grad(found, (x, y))
    assert float(found.detach()) == pytest.approx(value, abs=1e-9)
    assert gradients[0][1].tolist() == pytest.approx(of_x, abs=1e-9)
    assert gradients[1][2].tolist() == pytest.approx(of_y, abs=1e-9)


@pytest.mark.parametrize("annealing", [Annealing(0.05), Annealing(5.0, 2.0)])
def test_equal_sets_leave_no_gradient_in_the_divergence(annealing: Annealing) -> None:
    """2 W(x, y) - W(x, x) - W(y, y) with the points of x and y the same: the value is 0 and so is its gradient."""
    x = points(6, 4).requires_grad_()
    y = x.detach()[torch.randperm(6, generator=torch.Generator().manual_seed(2))]
    value = 2 * transport(x, y, MIXED, annealing) - transport(x, x, MIXED, annealing)
    (found,) = torch.autograd.grad(value, x)
    assert float(found.abs().max()) < 1e-10
    assert float(value.detach() - transport(y, y, MIXED, annealing)) == pytest.approx(0, abs=1e-10)


def test_exchanging_the_sets_changes_nothing() -> None:
    x, y = points(6, 4), points(3, 4, seed=1)
    annealing = Annealing(0.05)
    there, back = transport(x, y, MIXED, annealing), transport(y, x, MIXED, annealing)
    assert float(there) == pytest.approx(float(back), rel=1e-12)


def test_a_batch_of_problems_is_each_of_them_at_the_widest_ones_levels() -> None:
    x, y = points(2 * 4, 3).view(2, 4, 3), points(2 * 5, 3, seed=1).view(2, 5, 3)
    annealing = Annealing(1.0, extra=300)  # converged: so the levels on the way no longer matter
    together = transport(x, y, MIXED, annealing)
    alone = torch.stack([transport(x[i], y[i], MIXED, annealing) for i in range(2)])
    torch.testing.assert_close(together, alone)


def test_huge_exponents_neither_overflow_nor_vanish() -> None:
    """Cost / eps of 1e7 and more."""
    x, y = 100 * points(4, 3), 100 * points(4, 3, seed=1)
    found = gradient(x, y, SQUARED, Annealing(1e-3))
    assert bool(found.isfinite().all())
    low = softmin(torch.tensor([[1e9, 2e9]]), torch.zeros(2), torch.log(torch.tensor([0.5, 0.5])), 1e-3)
    assert float(low) == pytest.approx(1e9)


def test_single_precision_points_get_single_precision_gradients_of_double_quality() -> None:
    x, y = points(20, 50).float(), points(20, 50, seed=1).float()
    found = gradient(x, y, MIXED, Annealing(0.05))
    assert found.dtype == torch.float32
    exact = gradient(x.double(), y.double(), MIXED, Annealing(0.05))
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-8)
