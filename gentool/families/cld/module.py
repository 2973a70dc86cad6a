"""Critically-damped Langevin diffusion (CLD-SGM, arXiv 2112.07068): a denoiser of data and velocity."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gentool.diffusion.denoiser import Denoiser
from gentool.diffusion.langevin import loss as losses
from gentool.diffusion.langevin import precond as preconds
from gentool.diffusion.langevin.likelihood import log_likelihood_bound
from gentool.diffusion.langevin.process import Langevin
from gentool.diffusion.likelihood import Likelihood
from gentool.diffusion.loss import Loss
from gentool.diffusion.precond import measure_moments
from gentool.errors import UserError
from gentool.families.cld.config import CldRecipe
from gentool.noise import Noise
from gentool.training.denoising import DenoisingModule
from gentool.training.fitting import model_batches

MISMATCH = 1e-2
"""The largest entry of Phi at t = 1 above which the prior is no longer where the diffusion ends."""


class CldModule(DenoisingModule):
    """The shared denoising module with another process, preconditioning, loss and likelihood."""

    recipe: CldRecipe
    process: Langevin

    def build_model(self) -> tuple[Denoiser, Loss]:
        config = self.recipe.model
        self.process = Langevin(config.process)
        precond = preconds.build(config, self.process)
        network = self.build_network(precond.out_factor, in_factor=self.process.state_parts)
        return Denoiser(network, precond, self.process), losses.build(config, self.process)

    def fit_to_data(self, dataset: Any) -> None:
        """Measures nothing that the model keeps: says where the equilibrium, from which sampling starts, is far from
        what the diffusion makes of the data."""
        self.warn_of_beta()
        mean, std = measure_moments(model_batches(dataset))
        if abs(mean) > 1 or not 0.1 <= std <= 3:
            self.say(
                f"warning: the data have mean {mean:.3g} and standard deviation {std:.3g}; the diffusion's equilibrium "
                "has 0 and 1, so bring them near it"
            )

    def fit_privately(self) -> None:
        if self.loss.stratified:
            raise UserError(
                "private training needs each record's draw to be independent of the others: leave it false",
                "model.loss.stratified",
            )
        self.warn_of_beta()

    def warn_of_beta(self) -> None:
        left = self.process.mismatch
        if left > MISMATCH:
            self.say(
                f"warning: model.process: a share of {left:.2g} of the data is left at t = 1, where sampling starts "
                "from pure noise; raise beta0 or beta1"
            )

    def log_likelihood(self, x: Tensor, noise: Noise, label: Tensor | None = None) -> Likelihood:
        return log_likelihood_bound(
            self.model, self.process, x, noise, label=label, velocities=self.recipe.model.velocities
        )
