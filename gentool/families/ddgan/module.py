"""Denoising diffusion GANs: a generator and a discriminator trained by turns (Xiao et al. 2022, 2112.07804)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.data import Batch, DataSet, DataSpec, to_model
from gentool.diffusion.solvers.catalog import SOLVERS
from gentool.errors import UserError
from gentool.families.ddgan.chain import Chain
from gentool.families.ddgan.config import NO_OTHER_SOLVER, SOLVER, DdganRecipe, unusable
from gentool.networks.discriminator import ConvDiscriminator, build_discriminator
from gentool.networks.embedding import full_precision
from gentool.networks.generator import Generator, build_generator
from gentool.recipes.schema import Sample
from gentool.training.adversarial import AdversarialModule, frozen, gradient_squares
from gentool.training.fitting import model_batches
from gentool.training.sampling import Drawn, Guide, SampleRequest

FAR, WON = 100.0, 0.01
"""Mean logits beyond the one, or a discriminator's loss below the other (2 ln 2 where it cannot tell): the generator
learns nothing any more."""
MANY_STEPS = 8
"""Beyond this the paper's own results fall: the networks are shared by all steps."""


class Turn(NamedTuple):
    """What one turn of a network sees: a pair of states, their index, and how the generator answers.

    Attributes:
        x, x_next: (B, ...) real x_k and x_{k+1}.
        k: (B,) int64.
        z: (B, latent).
        noise: (B, ...) of the posterior.
        label: (B,) int64, or None.
    """

    x: Tensor
    x_next: Tensor
    k: Tensor
    z: Tensor
    noise: Tensor
    label: Tensor | None


class DdganModule(AdversarialModule):
    """A step updates the discriminator, then the generator, each with levels, pairs and latents of its own."""

    recipe: DdganRecipe
    model: Generator
    remedies = (
        "raise model.r1.gamma, lower optimizer.lr and discriminator_optimizer.lr, or set trainer.clip_norm"
    )

    def __init__(self, recipe: DdganRecipe, spec: DataSpec) -> None:
        super().__init__(recipe, spec)
        config = recipe.model
        if spec.kind not in ("image", "vector"):
            raise UserError(f"the ddgan family models images and vectors, not {spec.kind} data")
        if config.conditional and spec.classes == 0:
            raise UserError(f"model.conditional: the data set {recipe.data.name} has no labels")
        if config.flip and spec.kind != "image":
            raise UserError(f"model.flip is for images; {recipe.data.name} is {spec.kind} data")
        self.classes = spec.classes if config.conditional else 0
        self.lopsided = False
        self.chain = Chain(config.schedule, config.steps)
        self.model = build_generator(config.network, spec.shape, self.classes)
        self.discriminator = build_discriminator(config.discriminator, spec.shape, self.classes)

    def fit_to_data(self, dataset: DataSet) -> None:
        """Says what the settings imply; a bounded generator must be able to reach the data.

        Raises:
            UserError: the data leave [-1, 1] and the generator ends on a tanh.
        """
        config = self.recipe.model
        if config.steps > MANY_STEPS:
            self.say(
                f"warning: model.steps is {config.steps}; beyond {MANY_STEPS} the paper's own results fall"
            )
        if isinstance(self.discriminator, ConvDiscriminator):
            self.warn_of_groups(self.discriminator.group)
        if config.network.tanh and self.spec.kind != "image":
            bounds = [(float(x.min()), float(x.max())) for x in model_batches(dataset)]
            low, high = min(low for low, _ in bounds), max(high for _, high in bounds)
            if low < -1 or high > 1:
                raise UserError(
                    f"model.network.tanh: the generator stays within -1 and 1, the data reach from {low:.4g} to "
                    f"{high:.4g}; set it to false"
                )

    # One training step

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Both updates; returns the sum of the two losses, by which a NaN is noticed."""
        for_generator, for_discriminator = self.both_optimizers()
        x0, label = self.data(batch)
        told = self.logs_now()
        of_discriminator, figures = self.discriminator_loss(self.turn(x0, label), told)
        self.update(for_discriminator, of_discriminator)
        with frozen(self.discriminator):
            of_generator = self.generator_loss(self.turn(x0, label))
            self.update(for_generator, of_generator)
        if told:
            self.log_dict(figures | {"loss_generator": of_generator.detach()})
            self.warn_if_lopsided(figures)
        return of_discriminator.detach() + of_generator.detach()

    def warn_if_lopsided(self, figures: dict[str, Tensor]) -> None:
        """Says so, once, when the discriminator has won; figures as `discriminator_loss` gives them."""
        loss = float(figures["loss_discriminator"])
        far = max(abs(float(figures[name])) for name in ("logit_real", "logit_fake"))
        if not self.lopsided and (far > FAR or loss < WON):
            self.lopsided = True
            self.say(
                f"warning: the discriminator has won by step {self.step + 1} (loss {loss:.3g}, mean logits up to "
                f"{far:.3g}): {self.remedies}"
            )

    def try_step(self, batch: Batch) -> Tensor:
        """A step with the gradient penalty, which not every step has: memory at its peak, speed at its lowest."""
        self._seed(0)
        x0, label = self.data(batch)
        of_discriminator, _ = self.discriminator_loss(self.turn(x0, label))
        of_discriminator.backward()
        with frozen(self.discriminator):
            of_generator = self.generator_loss(self.turn(x0, label))
            of_generator.backward()
        return of_discriminator.detach() + of_generator.detach()

    def data(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Data after mirroring, in the networks' own type, and labels where the model takes them."""
        x0 = to_model(batch.x).to(next(self.model.parameters()).dtype)
        if self.recipe.model.flip:
            mirrored = self.drawn(torch.rand, len(x0)) < 0.5
            x0 = torch.where(mirrored.view(-1, 1, 1, 1), x0.flip(3), x0)
        return x0, batch.label if self.classes else None

    def turn(self, x0: Tensor, label: Tensor | None) -> Turn:
        """Fresh levels, states and latents for data x0: each network's turn has its own."""
        steps = self.chain.steps
        k = (self.drawn(torch.rand, len(x0)) * steps).long().clamp(max=steps - 1)
        noise, noise_next, again = (self.drawn(torch.randn, *x0.shape).to(x0) for _ in range(3))
        z = self.drawn(torch.randn, len(x0), self.model.latent).to(x0)
        x, x_next = self.chain.pair(x0, k, noise, noise_next)
        return Turn(x, x_next, k, z, again, label)

    def fake(self, turn: Turn) -> Tensor:
        """x_k as the generator has it: drawn from q(x_k | x_{k+1}, G(x_{k+1}, z, k))."""
        x0 = self.model(turn.x_next, turn.k, turn.z, turn.label).to(turn.x_next.dtype)
        return self.chain.posterior(x0, turn.x_next, turn.k, turn.noise)

    def discriminator_loss(self, turn: Turn, told: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """E softplus(-D(real)) + E softplus(D(fake)), every `r1.every` steps with the penalty, and figures.

        Args:
            told: whether the figures are wanted.
        """
        config = self.recipe.model.r1
        penalised = config.gamma > 0 and self.step % config.every == 0
        x = turn.x.detach().requires_grad_(penalised or told)
        # second derivatives want float32 whatever the networks run in
        with full_precision(x.device) if penalised else nullcontext():
            real = self.discriminator(x, turn.x_next, turn.k, turn.label)
            squares = gradient_squares(real, x) if x.requires_grad else None
        with torch.no_grad():
            made = self.fake(turn)
        fake = self.discriminator(made, turn.x_next, turn.k, turn.label)
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        if penalised and squares is not None:
            weight = config.gamma / 2 * (config.every if config.scale_by_interval else 1)
            loss = loss + weight * squares.mean()
        if squares is None or not told:
            return loss, {}
        return loss, {
            "loss_discriminator": loss.detach(),
            "logit_real": real.detach().mean(),
            "logit_fake": fake.detach().mean(),
            "r1": squares.detach().mean(),
            **self._accuracies(real.detach(), fake.detach(), turn.k),
        }

    def _accuracies(self, real: Tensor, fake: Tensor, k: Tensor) -> dict[str, Tensor]:
        """Share of states told apart at each index that the batch has."""
        right = ((real > 0).float() + (fake < 0).float()) / 2
        return {f"accuracy_{i}": right[k == i].mean() for i in k.unique().tolist()}

    def generator_loss(self, turn: Turn) -> Tensor:
        """E softplus(-D(fake)): the non-saturating loss, its gradient by way of the posterior's mean."""
        return F.softplus(-self.discriminator(self.fake(turn), turn.x_next, turn.k, turn.label)).mean()

    # Lightning

    def compiled_parts(self) -> list[nn.Module]:
        """The generator alone: compiled modules have no second derivatives, which the penalty takes."""
        return [self.model]

    # Sampling

    def draw(self, request: SampleRequest) -> Drawn:
        """T steps from noise, each through the posterior of what the generator makes of the state and a fresh z.

        The states are float64 where the device has it, the generator's input is of its own type.
        """
        state = torch.float32 if request.device.type == "mps" else torch.float64
        own = next(self.model.parameters()).dtype
        noise, latents = request.noise(self.spec.shape, state), request.noise((self.model.latent,), own)
        x, steps = noise.normal("prior"), self.chain.steps
        for k in reversed(range(steps)):
            index = torch.full((len(x),), k, device=request.device)
            x0 = self.model(x.to(own), index, latents.normal("latent", k), request.labels).to(state)
            x = self.chain.posterior(x0, x, index, noise.normal("posterior", k))
            if request.on_step is not None:
                request.on_step(steps - k, steps)
        return Drawn(x.to(torch.float32), float(steps), {"steps": steps, "latent": self.model.latent})

    def usable_solvers(self) -> dict[str, str | None]:
        return {name: None if name == SOLVER else NO_OTHER_SOLVER for name in SOLVERS}

    def check_request(self, settings: Sample, guide: Guide | None = None) -> list[str]:
        """The chain is the model's own: nothing about it can be chosen.

        Raises:
            UserError: another solver or number of steps, or anything else that would be ignored.
        """
        if (fault := unusable(settings, self.chain.steps)) is not None:
            raise UserError(fault[1], f"sample.{fault[0]}")
        return []
