"""PFGM++ (arXiv 2302.04265): EDM with the noise of `gentool.diffusion.student` in the loss and in the prior."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from gentool.data import Batch
from gentool.diffusion.solvers.core import build as build_solver
from gentool.diffusion.student import log_density, prior_factors, radial_factors
from gentool.errors import UserError
from gentool.families.pfgmpp.config import PfgmppRecipe
from gentool.recipes.schema import Sample
from gentool.training import drawing
from gentool.training.denoising import DenoisingModule
from gentool.training.module import Examples
from gentool.training.sampling import Drawn, Guide, SampleRequest


class PfgmppModule(DenoisingModule):
    """Loss, solver and grid are EDM's; with D = infinity nothing is different at all."""

    recipe: PfgmppRecipe

    @property
    def dims(self) -> float | None:
        """D, None for infinity."""
        dims = self.recipe.model.dims
        return None if dims == "inf" else dims

    def examples(self, batch: Batch) -> Examples:
        found = super().examples(batch)
        if (dims := self.dims) is not None:
            draws = found["u"].shape[1]
            factors = self.global_draw(len(batch.x), lambda n: radial_factors(n, draws, dims, self.rng))
            noise = found["noise"]
            found["noise"] = noise * factors.to(noise).view(*factors.shape, *[1] * (noise.dim() - 2))
        return found

    def draw(self, request: SampleRequest) -> Drawn:
        if self.dims is None:
            return super().draw(request)
        factors = prior_factors(self.dims, request.noise(self.spec.shape))
        return drawing.draw(self.model, request, self.sampling_traits(), prior_factors=factors)

    def check_request(self, settings: Sample, guide: Guide | None = None) -> list[str]:
        if self.dims is not None and "classifier" in settings.guidance:
            raise UserError(
                "classifier guidance moves along the score of Gaussian noise, which this model has not (model.dims "
                "is finite): take cfg or apg"
            )
        notices = super().check_request(settings, guide)
        if self.dims is not None and build_solver(settings.solver, settings.options).stochastic:
            notices.append(
                f"{settings.solver}: the noise that it adds is Gaussian, and this model's is not; "
                "deterministic solvers are exact"
            )
        return notices

    def likelihood_prior(self) -> Callable[[Tensor], Tensor] | None:
        if self.dims is None:
            return None
        return partial(log_density, sigma=self.model.process.prior_std, dims=self.dims)
