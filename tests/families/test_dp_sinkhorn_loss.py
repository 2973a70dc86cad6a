"""DP-Sinkhorn's loss, and what its private step lets through."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gentool.families.dp_sinkhorn.config import DpSinkhornModel, DpSinkhornRecipe, Transport
from gentool.families.dp_sinkhorn.loss import SemiDebiased
from gentool.families.dp_sinkhorn.mechanism import clipped, release
from gentool.recipes.schema import Privacy
from gentool.transport.sinkhorn import transport


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss(**model: object) -> SemiDebiased:
    return SemiDebiased(DpSinkhornModel(**model), classes=0)


def gradient(of: SemiDebiased, x: Tensor, y: Tensor, n: int) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(of(x, y, n), x)[0]


# The loss


def test_no_debiasing_compares_the_batch_with_itself_and_full_debiasing_with_another() -> None:
    biased, x, y = loss(), draws(8, 5), draws(6, 5, seed=1)

    def w(a: Tensor, b: Tensor) -> float:
        return float(transport(a, b, biased.cost, biased.annealing))

    assert float(biased(x[:4], y, 4)) == pytest.approx(2 * w(x[:4], y) - w(x[:4], x[:4]))
    assert float(biased(x, y, 4)) == pytest.approx(2 * w(x[:4], y) - w(x[:4], x[4:]))
    assert float(biased(x[:5], y, 4)) == pytest.approx(2 * w(x[:4], y) - w(x[:4], x[1:5]))


@pytest.mark.parametrize(
    ("n", "debias", "redrawn"), [(50, 0.2, 10), (100, 0.29, 29), (9, 0.4, 3), (7, 1, 7), (9, 0, 0)]
)
def test_a_share_p_is_redrawn_rounded_down(n: int, debias: float, redrawn: int) -> None:
    recipe = DpSinkhornRecipe.model_construct(model=DpSinkhornModel(generated=n, debias=float(debias)))
    assert recipe.redrawn == redrawn


def test_an_empty_real_batch_leaves_the_second_term() -> None:
    of, x = loss(), draws(6, 5)
    y = torch.empty(0, 5, dtype=torch.float64)
    assert float(of(x, y, 4)) == pytest.approx(-float(transport(x[:4], x[2:], of.cost, of.annealing)))
    assert bool(gradient(of, x, y, 4).isfinite().all())


def test_redrawn_images_never_feel_the_real_ones() -> None:
    """The rows beyond n: that is why they need no noise."""
    of, x = loss(), draws(6, 5)
    one, other = (gradient(of, x, draws(7, 5, seed=s), 4) for s in (1, 2))
    assert torch.equal(one[4:], other[4:])
    assert not torch.allclose(one[:4], other[:4])
    assert float(one[4:].norm()) > 0


def test_one_real_image_draws_all_generated_ones() -> None:
    of, x, y = loss(transport=Transport(blur=5.0)), draws(4, 5), draws(1, 5, seed=1)
    pull = 2 * (2 * (x - y) + (x - y).sign()) / 4
    itself = gradient(of, x, torch.empty(0, 5, dtype=torch.float64), 4)
    torch.testing.assert_close(gradient(of, x, y, 4), pull + itself)


def test_labels_keep_transport_within_the_class() -> None:
    """With the one-hot label in the cost, an image is drawn to its class although another is nearer."""
    of = SemiDebiased(DpSinkhornModel(), classes=2)
    x, y = torch.tensor([[[[0.1]]], [[[-0.1]]]]), torch.tensor([[[[1.0]]], [[[-1.0]]]])
    for label, direction in ((torch.tensor([0, 1]), 1), (torch.tensor([1, 0]), -1)):
        leaf = x.clone().requires_grad_()
        real = of.points(y, torch.tensor([0, 1]))
        (found,) = torch.autograd.grad(
            2 * transport(of.points(leaf, label), real, of.cost, of.annealing), leaf
        )
        assert torch.equal(-found.flatten().sign(), direction * torch.tensor([1.0, -1.0]))


# The mechanism


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e30])
def test_clipping_only_shortens(scale: float) -> None:
    g = (scale * draws(5, 3, 2)).float()
    whole, rows = clipped(g, 0.5), clipped(g, 0.5, "row")
    assert float(whole.double().norm()) <= 0.5 * (1 + 1e-6)
    assert float(rows.double().flatten(1).norm(dim=1).max()) <= 0.5 * (1 + 1e-6)
    for made in (whole.flatten()[None], rows.flatten(1)):
        given = g.reshape(made.shape).double()
        cosine = torch.nn.functional.cosine_similarity(made.double(), given, dim=1)
        torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=0, atol=1e-6)
    if scale < 0.01:
        assert torch.equal(whole, g)
        assert torch.equal(rows, g)


def test_what_is_not_a_number_is_zero() -> None:
    g = draws(4, 3)
    g[1, 2], g[2, 0] = math.nan, math.inf
    assert torch.equal(clipped(g, 1.0), torch.zeros_like(g))
    rows = clipped(g, 1.0, "row")
    assert torch.equal(rows[1:3], torch.zeros(2, 3, dtype=torch.float64))
    assert float(rows[0].norm()) > 0


@pytest.mark.parametrize("clip", ["tensor", "row"])
def test_the_noise_is_what_the_plan_was_told(clip: str) -> None:
    """One record moves the clipped gradient by at most the sensitivity in the ledger, and could reach it."""
    privacy = Privacy(noise_multiplier=1.1, max_grad_norm=0.5)
    model = DpSinkhornModel(generated=16, clip=clip)
    name, sensitivity = DpSinkhornRecipe.model_construct(model=model, privacy=privacy).private_step
    assert name == "image-gradient"
    assert sensitivity == pytest.approx({"tensor": 1.0, "row": 4.0}[clip])
    g = 100 * draws(16, 7)
    farthest = float((clipped(g, 0.5, clip) - clipped(-g, 0.5, clip)).norm())
    assert farthest == pytest.approx(sensitivity, rel=1e-6)
    for seed in range(20):
        other = 100 * draws(16, 7, seed=seed)
        moved = float((clipped(g, 0.5, clip) - clipped(other, 0.5, clip)).norm())
        assert moved <= sensitivity * (1 + 1e-6)


def test_of_parameters_the_sensitivity_is_that_of_one_tensor() -> None:
    model = DpSinkhornModel(generated=16, perturb="parameters")
    privacy = Privacy(epsilon=1.0, max_grad_norm=3.0)
    recipe = DpSinkhornRecipe.model_construct(model=model, privacy=privacy)
    assert recipe.private_step == ("generator-gradient", 6.0)


def test_noise_falls_on_the_rows_that_saw_real_images_alone() -> None:
    g, std = draws(3000, 10), 2.5
    noise = std * draws(2000, 10, seed=3)
    found = release(g, noise, 0.5)
    torch.testing.assert_close(found[:2000] - clipped(g[:2000], 0.5), noise)
    assert torch.equal(found[2000:], clipped(g[2000:], 0.5))
    # the two parts keep one bound each: their own norms, never the other's
    assert float(found[2000:].norm()) == pytest.approx(0.5, rel=1e-5)
