"""Attacks by gradient: PGD, and Auto-PGD with its schedule of step sizes.

Both rank points by what all copies of the defence say, and start from the picture itself, so that an attack never
hands back a point that is less harmful than none.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gentool.attacks.expectation import Best, Expectation
from gentool.attacks.threat import Threat
from gentool.diffusion.convert import per_sample
from gentool.noise import mix

Climber = Callable[[Expectation, Tensor, Tensor, Threat, Best], None]
"""(expectation, pictures x, starting points, threat, best): climbs, and offers what it finds to `best`."""
MOMENTUM = 0.75
RISING = 0.75
"""Croce and Hein's alpha and rho."""


def attack(
    expectation: Expectation,
    x: Tensor,
    threat: Threat,
    climber: Climber,
    *,
    restarts: int,
    random_start: bool,
    seed: int,
) -> Best:
    """The most harmful points within the threat around pictures x (B, C, H, W) in [0, 1].

    Without a random start the first restart begins at the pictures themselves, the others at random.
    """
    best = Best(x, expectation.look(x))
    for restart in range(restarts):
        fresh = random_start or restart > 0
        start = threat.random(x, expectation.indices, mix(seed, "restart", restart)) if fresh else x
        climber(expectation, x, start, threat, best)
    assert threat.within(best.x, x), "an attack left its ball"
    return best


def pgd(iterations: int, step: float) -> Climber:
    """Projected gradient ascent with steps of `step` in the threat's norm (Madry et al. 2018)."""

    def climb(expectation: Expectation, x: Tensor, y: Tensor, threat: Threat, best: Best) -> None:
        for _ in range(iterations):
            point = expectation.climb(y)
            best.offer(y, point)
            y = threat.project(y + step * threat.direction(point.gradient), x)
        best.offer(y, expectation.look(y))

    return climb


def checkpoints(iterations: int) -> list[int]:
    """Iterations at which Auto-PGD looks back: ceil(p_j N), p_1 = 0.22.

    p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06), counted in hundredths, so that no rounding moves one.
    """
    shares = [0, 22]
    while shares[-1] < 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    found = [-(-share * iterations // 100) for share in shares[1:] if share <= 100]
    return sorted({k for k in found if k <= iterations})


def apgd(iterations: int) -> Climber:
    """Auto-PGD (Croce and Hein 2020, arXiv 2003.01690, algorithm 1): momentum, and steps from 2 eps on that are halved.

    At a checkpoint a picture's step is halved, and it goes on from its best point, where fewer than 75 % of the
    iterations since the last checkpoint raised its loss, or neither its step nor its best loss changed since then.
    """
    looks = checkpoints(iterations)

    def climb(expectation: Expectation, x: Tensor, y: Tensor, threat: Threat, best: Best) -> None:
        point = expectation.climb(y)
        best.offer(y, point)
        loss, gradient, before = point.loss, point.gradient, y
        top_y, top_loss, top_gradient = y, loss, gradient
        step = torch.full_like(loss, 2 * threat.eps)
        raised = torch.zeros_like(loss)
        halved = torch.zeros_like(loss, dtype=torch.bool)
        last_top, last_look = top_loss, 0
        for k in range(1, iterations + 1):
            z = threat.project(y + per_sample(step, y) * threat.direction(gradient), x)
            if k > 1:
                z = threat.project(y + MOMENTUM * (z - y) + (1 - MOMENTUM) * (y - before), x)
            before, y = y, z
            point = expectation.climb(y) if k < iterations else expectation.look(y)
            best.offer(y, point)
            raised += point.loss > loss
            loss, gradient = point.loss, point.gradient
            rose = loss > top_loss
            top_y, top_gradient = _pick(rose, y, top_y), _pick(rose, gradient, top_gradient)
            top_loss = torch.where(rose, loss, top_loss)
            if k in looks:
                stuck = ~halved & (top_loss <= last_top)
                halved = (raised < RISING * (k - last_look)) | stuck
                step = torch.where(halved, step / 2, step)
                y, gradient = _pick(halved, top_y, y), _pick(halved, top_gradient, gradient)
                loss = torch.where(halved, top_loss, loss)
                raised, last_top, last_look = torch.zeros_like(raised), top_loss, k

    return climb


def _pick(chosen: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(per_sample(chosen, x), x, y)
