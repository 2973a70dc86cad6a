"""Own attacks against closed forms: the ball, the schedule, linear classifiers, averaging over noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gentool.attacks import climb
from gentool.attacks.defence import Defence, NoiseOnly, StraightThrough, Undefended
from gentool.attacks.expectation import Best, Expectation, Point
from gentool.attacks.losses import cross_entropy, dlr
from gentool.attacks.threat import Threat
from gentool.errors import UserError
from tests.attacks.victims import Shrinking, linear, logits_of, pictures, purified

CLIMBERS = {
    "pgd": lambda eps: climb.pgd(20, 0.25 * eps),
    "apgd": lambda eps: climb.apgd(25),
}


def strike(
    defence: Defence, x: Tensor, label: Tensor, threat: Threat, name: str, loss=cross_entropy, **options
):  # type: ignore[no-untyped-def]
    expectation = Expectation(
        defence, loss, list(range(len(x))), label, options.pop("copies", 1), 0, options.pop("rows", 256)
    )
    best = climb.attack(
        expectation,
        x,
        threat,
        CLIMBERS[name](threat.eps),
        restarts=options.pop("restarts", 1),
        random_start=options.pop("random_start", True),
        seed=0,
    )
    return best, expectation


# ---- the ball


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [8 / 255, 0.1, 1 / 3, 0.7])
def test_a_projection_is_within_the_ball_and_the_pixels_with_no_tolerance(norm: str, eps: float) -> None:
    threat = Threat(norm, eps)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(500, 3, 5, 5, generator=generator)
    x[:50] = x[:50].round()  # pixels at the ends of the range
    y = threat.project(x + torch.randn(x.shape, generator=generator), x)
    assert threat.within(y, x)
    assert (threat.distance(y, x) > 0.999 * eps).double().mean() > (0.99 if norm == "linf" else 0.5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_projection_leaves_what_is_inside_as_it_is(norm: str) -> None:
    threat = Threat(norm, 0.5)  # type: ignore[arg-type]
    x = pictures(20)
    inside = x + 0.1 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(threat.project(inside, x), inside)
    once = threat.project(x + 3 * (inside - x) + 1, x)
    assert torch.equal(threat.project(once, x), once)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_fill_the_ball_evenly_and_depend_on_the_picture_alone(norm: str) -> None:
    """Of points uniform in a ball of d dimensions the share within r eps is r^d; in a box a pixel's is uniform."""
    threat = Threat(norm, 0.1)  # type: ignore[arg-type]
    x = torch.full((4000, 1, 1, 2), 0.5)
    start = threat.random(x, range(4000), seed=3)
    assert threat.within(start, x)
    far = threat.distance(start, x) / 0.1
    for r in (0.3, 0.5, 0.8):
        assert (far <= r).double().mean().item() == pytest.approx(r**2, abs=0.03)
    alone = threat.random(x[7:8], [7], seed=3)
    assert torch.equal(alone[0], start[7])


# ---- the schedule


def test_auto_pgd_looks_back_where_the_paper_says() -> None:
    assert climb.checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert climb.checkpoints(10) == [3, 5, 6, 7, 8, 9, 10]
    assert all(0 < k <= n for n in range(1, 60) for k in climb.checkpoints(n))


class Fixed:
    """An expectation that tells the losses it is given, and notes where it was asked."""

    def __init__(self, losses: list[float]) -> None:
        self.losses, self.seen = iter(losses), list[Tensor]()

    def climb(self, x: Tensor) -> Point:
        self.seen.append(x.clone())
        return Point(torch.tensor([next(self.losses)]), torch.zeros(1), torch.ones_like(x))

    look = climb


def test_steps_of_auto_pgd_are_two_eps_with_momentum_and_halved_when_nothing_rises() -> None:
    """x' = x + 0.75 (z - x) + 0.25 (x - before), with z a step of 2 eps; and the best point after a halving."""
    eps, n = 0.05, 25
    x = torch.full((1, 1, 1, 1), 0.5)
    falling = Fixed([-float(k) for k in range(n + 2)])
    best = Best(x, Point(torch.tensor([-1e9]), torch.zeros(1), x))
    climb.apgd(n)(falling, x, x, Threat("linf", eps), best)  # type: ignore[arg-type]
    moved = [(p - 0.5).item() / eps for p in falling.seen]
    assert moved[:2] == pytest.approx([0, 1], abs=1e-5)  # 2 eps, cut to the ball
    # at each look the best point, the start, is taken up again with half the step: eps, eps / 2, eps / 4
    for number, look in enumerate(climb.checkpoints(n)[:3]):
        expected = 0.75 * 0.5**number + 0.25 * (0 - moved[look - 1])
        assert moved[look + 1] == pytest.approx(expected, abs=1e-5)
    assert torch.equal(best.x, falling.seen[0])


def test_steps_of_auto_pgd_are_kept_while_the_loss_rises() -> None:
    eps, n = 0.05, 25
    x = torch.full((1, 1, 1, 1), 0.5)
    rising = Fixed([float(k) for k in range(n + 2)])
    best = Best(x, Point(torch.tensor([-1e9]), torch.zeros(1), x))
    climb.apgd(n)(rising, x, x, Threat("linf", eps), best)  # type: ignore[arg-type]
    assert all((p - 0.5).item() / eps == pytest.approx(1, abs=1e-5) for p in rising.seen[1:])


# ---- the losses


def test_dlr_of_the_paper_and_what_it_does_not_feel() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0]])
    assert dlr(logits, torch.tensor([0])).item() == pytest.approx(-0.5)
    assert dlr(logits, torch.tensor([2])).item() == pytest.approx(0.5)  # misread: positive
    for other in (7 * logits, logits + 5):
        assert dlr(other, torch.tensor([0])).item() == pytest.approx(-0.5, abs=1e-6)


def test_dlr_needs_three_classes() -> None:
    with pytest.raises(UserError, match="at least 3 classes"):
        dlr(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))


# ---- linear classifiers, whose worst case is known


@pytest.mark.parametrize("name", list(CLIMBERS))
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_worst_case_of_a_linear_classifier_is_found(name: str, norm: str) -> None:
    """Two classes: cross-entropy is monotone in the margin w.x, whose worst is -eps ||w||_1, or -eps ||w||_2."""
    weights, bias = linear(classes=2)
    x, label, eps = pictures(), torch.tensor([0, 1, 0, 1, 0, 1]), 0.1
    best, _ = strike(Undefended(logits_of(weights, bias)), x, label, Threat(norm, eps), name)  # type: ignore[arg-type]
    w = 2 * (weights[0] - weights[1]) * (1 - 2 * label[:, None])  # of the margin, in pixels of [0, 1]
    change = ((best.x - x).flatten(1) * w).sum(1)
    dual = w.abs().sum(1) if norm == "linf" else w.norm(dim=1)
    assert torch.allclose(change, -eps * dual, rtol=1e-3)
    if norm == "linf":
        assert torch.allclose((best.x - x).flatten(1), -eps * w.sign(), atol=1e-6)


@pytest.mark.parametrize("name", list(CLIMBERS))
def test_the_worst_case_at_the_ends_of_the_pixels_range(name: str) -> None:
    weights, bias = linear(classes=2)
    x, label = pictures(low=0.0, high=1.0).round(), torch.zeros(6, dtype=torch.int64)
    best, _ = strike(Undefended(logits_of(weights, bias)), x, label, Threat("linf", 0.2), name)
    w = (weights[0] - weights[1]).view(1, 1, 4, 4)
    assert torch.allclose(best.x, (x - 0.2 * w.sign()).clamp(0, 1), atol=1e-6)


def test_dlr_climbs_where_cross_entropy_has_no_gradient() -> None:
    """A classifier of huge logits: float32 cross-entropy is flat, which is counted; DLR does not mind."""
    weights, bias = linear(classes=3)
    masked = Undefended(logits_of(weights, bias, scale=1e4))
    x = pictures()
    label = masked(x, [], 0, []).argmax(1)
    flat, met = strike(masked, x, label, Threat("linf", 0.1), "apgd", random_start=False)
    assert met.tally.zero.sum() > 0.9 * met.tally.asked.sum() > 0
    free, seen = strike(masked, x, label, Threat("linf", 0.1), "apgd", loss=dlr, random_start=False)
    assert seen.tally.zero.sum() == 0
    assert free.missed.sum() > flat.missed.sum()


def test_an_attack_never_hands_back_less_than_the_picture_itself() -> None:
    """A picture that is misread before the attack is misread after it, though a random start may read right."""
    weights, bias = linear(classes=3)
    bare = Undefended(logits_of(weights, bias))
    x = pictures(20)
    wrong = (bare(x, [], 0, []).argmax(1) + 1) % 3
    best, _ = strike(bare, x, wrong, Threat("linf", 1e-6), "pgd")
    assert best.missed.min() == 1


# ---- expectation over noise


def test_a_gradient_is_the_mean_over_its_draws() -> None:
    """E over x + sigma eps of w.x has gradient w whatever eps; of a quadratic loss it is that of the mean."""
    weights, _ = linear(classes=2)
    x, label = pictures(3), torch.zeros(3, dtype=torch.int64)

    def quadratic(logits: Tensor, label: Tensor) -> Tensor:
        return logits.square().sum(1)

    noisy = NoiseOnly(logits_of(weights, torch.zeros(2)), sigma=0.5)
    many = Expectation(noisy, quadratic, [0, 1, 2], label, 4000, 0).climb(x).gradient
    exact = 2 * 2 * ((2 * x - 1).flatten(1) @ weights.T @ weights).view_as(x)
    error = (many - exact).norm() / exact.norm()
    few = Expectation(noisy, quadratic, [0, 1, 2], label, 40, 0).climb(x).gradient
    assert error < 0.1
    assert (few - exact).norm() / exact.norm() > 3 * error  # it falls with the root of the draws


def test_a_picture_fares_the_same_in_every_batch_and_split() -> None:
    weights, bias = linear()
    x, label = pictures(), torch.tensor([0, 1, 2, 0, 1, 2])
    defence = purified(weights, bias, Shrinking(gain=0.7, spread=0.3))
    whole, _ = strike(defence, x, label, Threat("linf", 0.1), "apgd", copies=5)
    split, _ = strike(defence, x, label, Threat("linf", 0.1), "apgd", copies=5, rows=7)
    assert torch.allclose(whole.x, split.x, atol=1e-5)
    expectation = Expectation(defence, cross_entropy, [4], label[4:5], 5, 0)
    alone = climb.attack(
        expectation, x[4:5], Threat("linf", 0.1), climb.apgd(25), restarts=1, random_start=True, seed=0
    )
    assert torch.allclose(alone.x[0], whole.x[4], atol=1e-5)


def test_fresh_draws_in_every_call_and_one_where_there_is_no_noise() -> None:
    weights, bias = linear()
    noisy = Expectation(NoiseOnly(logits_of(weights, bias), 0.5), cross_entropy, [0], torch.tensor([0]), 3, 0)
    x = pictures(1)
    assert noisy.look(x).loss != noisy.look(x).loss
    bare = Expectation(Undefended(logits_of(weights, bias)), cross_entropy, [0], torch.tensor([0]), 3, 0)
    assert bare.copies == 1
    assert bare.look(x).loss == bare.look(x).loss


# ---- gradients of a defence


def test_bpda_is_the_exact_gradient_of_a_purifier_that_shifts() -> None:
    weights, bias = linear()
    x, label = pictures(), torch.tensor([0, 1, 2, 0, 1, 2])
    for purify, same in ((Shrinking(gain=1.0, shift=0.2), True), (Shrinking(gain=0.5), False)):
        defence = purified(weights, bias, purify)
        exact, through = (
            Expectation(d, cross_entropy, range(6), label, 2, 0).climb(x)
            for d in (defence, StraightThrough(defence))
        )
        assert torch.allclose(exact.loss, through.loss, atol=1e-6)
        factor = 1 if same else 2
        assert torch.allclose(factor * exact.gradient, through.gradient, atol=1e-6)


@pytest.mark.parametrize("name", list(CLIMBERS))
def test_a_defence_without_a_gradient_is_refused_with_the_reason(name: str) -> None:
    weights, bias = linear()
    closed = purified(weights, bias, Shrinking(graph=False))
    x, label = pictures(), torch.tensor([0, 1, 2, 0, 1, 2])
    with pytest.raises(UserError, match=r"has no gradient.*--gradient bpda"):
        strike(closed, x, label, Threat("linf", 0.1), name)
    strike(StraightThrough(closed), x, label, Threat("linf", 0.1), name)


def test_gradients_that_are_not_finite_are_counted_and_not_followed() -> None:
    class Broken:
        random, calls, gradient_calls = False, 0, 0

        def __call__(self, x: Tensor, indices: object, seed: int, draw: object) -> Tensor:
            root = (x.flatten(1)[:, :1] - 0.5).clamp(min=0).sqrt()  # its slope at 0.5 is infinite
            return torch.cat([root, -root, 0 * root], 1)

    x = torch.full((2, 1, 4, 4), 0.5)
    x[1] = 0.6
    expectation = Expectation(Broken(), cross_entropy, [0, 1], torch.tensor([0, 0]), 1, 0)
    point = expectation.climb(x)
    assert point.gradient.isfinite().all()
    assert expectation.tally.broken.tolist() == [1, 0]


def test_zero_gradients_count_only_where_something_is_left_to_climb() -> None:
    """DLR is flat, at 1, where three classes are read in the reverse of the right order."""
    weights, bias = linear(classes=3)
    bare = Undefended(logits_of(weights, bias))
    x = pictures(20)
    last = bare(x, [], 0, []).argmin(1)
    expectation = Expectation(bare, dlr, range(20), last, 1, 0)
    assert expectation.climb(x).gradient.abs().max() < 1e-6
    assert expectation.tally.asked.sum() == 0


def test_a_defence_that_shrinks_perturbations_withstands_more() -> None:
    """w.(g z) has the margin's worst at -g eps ||w||_1: halving g halves what the ball can do."""
    weights, bias = linear(classes=2)
    x, label = pictures(), torch.tensor([0, 1, 0, 1, 0, 1])
    losses = []
    for gain in (1.0, 0.5):
        defence = purified(weights, bias, Shrinking(gain=gain, spread=0.0))
        best, _ = strike(defence, x, label, Threat("linf", 0.1), "pgd", copies=2)
        w = 2 * (weights[0] - weights[1]) * (1 - 2 * label[:, None])
        losses.append((gain * ((best.x - x).flatten(1) * w).sum(1)).mean().item())
    assert losses[1] == pytest.approx(losses[0] / 2, rel=1e-4)
    assert math.isfinite(losses[0])
