"""From noise to latents and back: each prior by the toolkit's solvers, first the global latent, then the points."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gentool.diffusion.denoiser import Denoiser
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.solvers.core import build as build_solver
from gentool.diffusion.solvers.integrate import integrate
from gentool.families.lion.config import LionModel
from gentool.families.lion.priors import Priors
from gentool.noise import mix
from gentool.recipes.schema import Sample
from gentool.training import drawing
from gentool.training.sampling import Drawn, SampleRequest


class Generation:
    """The priors of one model, and how latents are drawn from them.

    Args:
        points: of a cloud.
    """

    def __init__(self, priors: Priors, config: LionModel, points: int) -> None:
        self.priors = priors
        known = bool(priors.columns)
        dropout = config.label_dropout if known else 0.0
        null = priors.nothing if known else None
        shape = (3 + config.features, points)
        self.style_traits = drawing.Traits((config.style,), 0, dropout, False, null=null, told=known)
        self.points_traits = drawing.Traits(shape, 0, dropout, False, null=null, told=True)

    def parts(self) -> tuple[tuple[Denoiser, drawing.Traits], ...]:
        """Both denoisers, each with what sampling must know of it."""
        return (self.priors.style, self.style_traits), (self.priors.points, self.points_traits)

    def style(self, request: SampleRequest, condition: Tensor | None) -> Drawn:
        """Global latents (B, S) given conditions (B, columns); from `request.start` (B, S) where that is given."""
        return drawing.draw(self.priors.style, replace(request, labels=condition), self.style_traits)

    def points(self, request: SampleRequest, style: Tensor, condition: Tensor | None) -> Drawn:
        """Latent points (B, 3 + F, N) given global latents (B, S) and conditions; the noise is their own."""
        request = replace(request, seed=mix(request.seed, "points"), labels=beside(style, condition))
        return drawing.draw(self.priors.points, request, self.points_traits)


def beside(style: Tensor, condition: Tensor | None) -> Tensor:
    """What the prior of points is told: (B, S + columns)."""
    return style if condition is None else torch.cat([style, condition.to(style)], dim=1)


def to_noise(denoiser: Denoiser, x0: Tensor, told: Tensor | None, settings: Sample) -> tuple[Tensor, float]:
    """The noise (B, ...) of latents x0 by the probability flow, and network calls: what `drawing.draw` starts from.

    The latents are taken for states at the flow's clean end, where the noise level is a hundredth; the same settings
    backwards give them back up to the solver's error.

    Raises:
        UserError: a solver that draws noise, or a grid that ends at sigma = 0.
    """
    process = denoiser.process
    grid = drawing.build_grid(settings, process)
    predict = Predictor(denoiser, sigma_min=denoiser.sigma_min, sigma_max=denoiser.sigma_max, label=told)
    solver = build_solver(settings.solver, settings.options)
    state = x0 if x0.device.type == "mps" else x0.double()
    found = integrate(predict, process, solver, grid, state, reverse=True)
    return found.x / process.prior_scale(float(grid.sigma[0])), found.nfe
