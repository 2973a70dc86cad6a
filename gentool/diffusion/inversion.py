"""Real pictures as the noise of a sampler that ends on them: edited by running it again under another condition.

`invert` and `replay` are the edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024, arXiv 2304.06140), exact
by construction; `encode` and `decode` are DDIM's (Song et al. 2021, arXiv 2010.02502, section 4.3) or another
deterministic solver's, exact only in the limit of many steps. All in the canonical state x = x0 + sigma eps, so that
one code serves every process.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from gentool.diffusion.grids import Grid
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.process import Process
from gentool.diffusion.solvers.core import Predict, Solver
from gentool.diffusion.solvers.integrate import integrate
from gentool.diffusion.solvers.stochastic import Ddim, ancestral_row
from gentool.errors import UserError
from gentool.noise import Noise


@dataclass(frozen=True)
class NoiseMaps:
    """A picture taken apart into the noise of an ancestral sampler.

    Attributes:
        start: (B, ...) the state at the level grid.sigma[skip].
        moves: (steps - skip) tensors (B, ...), what each step adds to its mean: its noise times its standard deviation;
            for the last step, which has none, what is left of the picture. (The paper's code sets that one to zero,
            and ends on the mean: blurred at few steps.)
        skip: steps left out at the noisy end.
    """

    start: Tensor
    moves: tuple[Tensor, ...]
    skip: int

    def normal(self, grid: Grid) -> Tensor:
        """(steps - skip - 1, B, ...) the noise maps z in units of the steps' own standard deviations."""
        levels = list(pairwise(grid.sigma.tolist()))[self.skip :]
        return torch.stack(
            [move / ancestral_row(s, t, 1.0).noise for move, (s, t) in zip(self.moves, levels) if t > 0]
        )


def check_skip(skip: int, steps: int) -> None:
    """Refuses to leave out every step.

    Raises:
        UserError: skip is not in 0 .. steps - 1.
    """
    if not 0 <= skip < steps:
        raise UserError(f"expected 0 to {steps - 1} of the {steps} steps, not {skip}", "--skip")


def invert(predict: Predict, grid: Grid, x0: Tensor, noise: Noise, skip: int = 0) -> NoiseMaps:
    """The noise maps of pictures x0 (B, ...) under the condition that `predict` is bound to.

    Each level's state is x0 + sigma e with an e of its own, independent of the others (not a chain: that is what
    makes the maps carry the picture's layout); what an ancestral step from one to the next must add is its map.

    Args:
        grid: decreasing to sigma = 0.
    """
    check_skip(skip, grid.steps)
    levels = list(pairwise(grid.sigma.tolist()))
    x = start = _noisy(x0, noise, levels[skip][0], skip)
    moves = []
    for i, (s, t) in enumerate(levels[skip:], skip):
        mean = _mean(predict, x, s, t)
        moves.append(_noisy(x0, noise, t, i + 1) - mean)
        x = mean + moves[-1]  # not the state itself: what rounding lost here is lost in the replay alike
    return NoiseMaps(start, tuple(moves), skip)


def replay(predict: Predict, grid: Grid, maps: NoiseMaps) -> Tensor:
    """(B, ...) where the maps lead under the condition of `predict`; the picture itself under that of the inversion."""
    x = maps.start
    for (s, t), move in zip(list(pairwise(grid.sigma.tolist()))[maps.skip :], maps.moves):
        x = _mean(predict, x, s, t) + move
    return x


def _noisy(x0: Tensor, noise: Noise, sigma: float, i: int) -> Tensor:
    return x0 + sigma * noise.normal("inversion", i) if sigma > 0 else x0


def _mean(predict: Predict, x: Tensor, s: float, t: float) -> Tensor:
    """The mean of the posterior's step from level s to t (eta = 1), which at t = 0 is the prediction."""
    d = predict(x, s)
    if t == 0:
        return d
    row = ancestral_row(s, t, 1.0)
    return row.a * x + row.c[0] * d


def _beyond(grid: Grid, skip: int) -> Grid:
    return Grid(grid.name, grid.t[skip:], grid.sigma[skip:], grid.notes)


DDIM = Ddim()


def encode(
    predict: Predictor, process: Process, grid: Grid, x0: Tensor, skip: int = 0, solver: Solver = DDIM
) -> Tensor:
    """(B, ...) the state at grid.sigma[skip] from which the solver leads back to x0, taken for one at the last level.

    DDIM's slope is the one where each step starts, not where it ends: an error of first order in its length.

    Args:
        grid: decreasing to a positive level.
        solver: a deterministic one.
    """
    check_skip(skip, grid.steps)
    return integrate(predict, process, solver, _beyond(grid, skip), x0, reverse=True).x


def decode(
    predict: Predictor, process: Process, grid: Grid, x: Tensor, skip: int = 0, solver: Solver = DDIM
) -> Tensor:
    """(B, ...) the solver's way from a state at grid.sigma[skip] to the last level."""
    check_skip(skip, grid.steps)
    return integrate(predict, process, solver, _beyond(grid, skip), x).x
