"""Shapes between two shapes, and variations of one (LION, 2210.06978, sections 3.3 and 5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gentool.diffusion.denoiser import Denoiser
from gentool.families.lion.generation import Generation, beside, to_noise
from gentool.families.lion.module import LionModule
from gentool.noise import mix
from gentool.recipes.schema import Sample
from gentool.training.sampling import SampleRequest

LEVELS = 1000
Level = Literal["global", "points"]


class Edited(NamedTuple):
    """Clouds (B, N, 3) and the network calls that one of them took."""

    x: Tensor
    nfe: float


class Editor:
    """Edits of clouds with `points` points, which need not be as many as in training.

    Args:
        condition: (1, columns) what the priors are told; None says nothing.
    """

    def __init__(self, module: LionModule, points: int, condition: Tensor | None = None) -> None:
        self.model, self.config = module.model, module.recipe.model
        self.generation = Generation(module.model.priors, module.recipe.model, points)
        priors = module.model.priors
        if condition is None and priors.columns:
            condition = priors.nothing(torch.zeros(1, priors.columns, device=module.device))
        self._condition = condition

    def condition(self, count: int) -> Tensor | None:
        """(count, columns)."""
        return None if self._condition is None else self._condition.expand(count, -1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Clouds (B, N, 3) to the means of their latents, (B, S) and (B, 3 + F, N)."""
        config, count = self.config, len(x)
        nothing = x.new_zeros(count, config.style), x.new_zeros(count, 3 + config.features, x.shape[1])
        found = self.model.autoencoder.encode(x.mT.contiguous(), *nothing)
        return found.style, found.points

    def decode(self, style: Tensor, points: Tensor) -> Tensor:
        """Latents to clouds (B, N, 3)."""
        return self.model.autoencoder.decode(style, points).mT.contiguous()

    def reconstruct(self, x: Tensor) -> Tensor:
        """Clouds (B, N, 3) by way of the means of their latents."""
        return self.decode(*self.encode(x))

    def noise(self, x: Tensor, settings: Sample) -> tuple[Tensor, Tensor, float]:
        """The noise of both latents of clouds (B, N, 3) by the probability flow, and network calls a cloud."""
        style, points = self.encode(x)
        priors, condition = self.model.priors, self.condition(len(x))
        of_style, calls = to_noise(priors.style, style, condition, settings)
        of_points, more = to_noise(priors.points, points, beside(style, condition), settings)
        return of_style, of_points, calls + more

    def between(
        self,
        ends: tuple[Tensor, Tensor],
        shares: Tensor,
        settings: Sample,
        seed: int,
        frozen: Level | None = None,
    ) -> Edited:
        """Shapes on the way from one to another, (B, N, 3): their noises e_0 and e_1 (2, ...) of both latents, mixed.

        With the share p of the second, sqrt(1 - p) e_0 + sqrt(p) e_1 has unit variance. The global latent is drawn
        first, the points given the new one.

        Args:
            shares: (B,) the shares p, from 0 to 1.
            frozen: the latent whose noise stays e_0.
        """

        def mixed(e: Tensor, still: bool) -> Tensor:
            p = (torch.zeros_like(shares) if still else shares).to(e).view(-1, *[1] * (e.dim() - 1))
            return (1 - p).sqrt() * e[:1] + p.sqrt() * e[1:]

        styles, points = mixed(ends[0], frozen == "global"), mixed(ends[1], frozen == "points")
        request = SampleRequest(seed, range(len(shares)), None, settings, device=styles.device)
        condition = self.condition(len(shares))
        style = self.generation.style(replace(request, start=styles), condition)
        cloud = self.generation.points(replace(request, start=points), style.x, condition)
        return Edited(self.decode(style.x, cloud.x), style.nfe + cloud.nfe)

    def varied(
        self, x: Tensor, tau: tuple[int, int], settings: Sample, seed: int, indices: Sequence[int]
    ) -> Edited:
        """Variations of clouds (B, N, 3): both latents noised up to levels `tau` of 1000 and denoised from there.

        Level 0 keeps a latent as it is: (0, 0) is the reconstruction. The points are denoised given the new global
        latent.

        Args:
            indices: of the samples, by which their noise is drawn.
        """
        style, points = self.encode(x)
        request = SampleRequest(seed, indices, None, settings, device=x.device)
        condition, nfe = self.condition(len(x)), 0.0
        if tau[0]:
            asked = self._from_level(request, self.model.priors.style, style, tau[0])
            drawn = self.generation.style(asked, condition)
            style, nfe = drawn.x, nfe + drawn.nfe
        if tau[1]:
            asked = self._from_level(request, self.model.priors.points, points, tau[1])
            drawn = self.generation.points(asked, style, condition)
            points, nfe = drawn.x, nfe + drawn.nfe
        return Edited(self.decode(style, points), nfe)

    def _from_level(self, request: SampleRequest, denoiser: Denoiser, x0: Tensor, tau: int) -> SampleRequest:
        """The request that starts at the latents x0 with the noise of level tau, and goes down from there."""
        process, settings = denoiser.process, request.settings
        t = tau / LEVELS
        sigma = float(process.sigma(torch.tensor(t, dtype=torch.float64)))
        stream = replace(request, seed=mix(request.seed, "diffuse", x0.dim()))
        state = x0 + sigma * stream.noise(x0.shape[1:]).normal("prior")
        grid = {**settings.grid_options, "final": "zero", "t_max": t}
        # the more steps than levels there are, the less each does
        short = {"grid": "uniform-t", "grid_options": grid, "steps": min(settings.steps, tau)}
        return replace(
            request, start=state / process.prior_scale(sigma), settings=settings.model_copy(update=short)
        )
