"""DP-Sinkhorn's training step and its samples (Cao et al. 2021, arXiv 2111.01177, algorithm 1)."""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool import networks
from gentool.data import Batch, DataSpec, to_model
from gentool.errors import UserError
from gentool.families.dp_sinkhorn.config import DpSinkhornRecipe
from gentool.families.dp_sinkhorn.loss import SemiDebiased
from gentool.families.dp_sinkhorn.mechanism import release
from gentool.networks.oneshot import Generator, measure_statistics
from gentool.noise import mix
from gentool.recipes.schema import Sample
from gentool.training.latent import LatentGenerator
from gentool.training.module import GenModule
from gentool.training.one_shot import ONE_SHOT
from gentool.training.sampling import Drawn, Guide, SampleRequest, check_one_shot

STATISTICS = (4, 256)
"""Batches, and latents in each, that BatchNorm's statistics for sampling are measured on."""

THRESHOLD = "threshold_background"


class DpSinkhornModule(GenModule):
    """A generator moved towards real images by the gradient of a transport loss, taken at its images.

    Real images act on the weights through that gradient alone, so clipping and noising it (`mechanism.release`)
    makes the whole step private, and BatchNorm in the generator is sound: it sees latents only.

    Attributes:
        skipped: steps of private training whose gradient was not finite; nothing of it was released.
    """

    own_private_step = True
    recipe: DpSinkhornRecipe
    model: Generator

    def __init__(self, recipe: DpSinkhornRecipe, spec: DataSpec) -> None:
        super().__init__(recipe, spec)
        config = recipe.model
        if spec.kind != "image":
            raise UserError(f"dp-sinkhorn makes images; {recipe.data.name} is {spec.kind} data")
        if spec.shape[1] != spec.shape[2]:
            raise UserError(
                f"dp-sinkhorn makes square images; {recipe.data.name} has {spec.shape[1:]}: crop them"
            )
        if config.conditional and spec.classes == 0:
            raise UserError(f"model.conditional: the data set {recipe.data.name} has no labels")
        self.automatic_optimization = False
        self.classes = spec.classes if config.conditional else 0
        self.model = networks.build_oneshot(config.network, spec.shape[0], spec.shape[1], self.classes)
        self.loss = SemiDebiased(config, self.classes)
        self.skipped: Tensor | float = 0.0

    def prepare_training(self) -> None:
        super().prepare_training()
        n, p = self.recipe.generated, self.recipe.model.debias
        if p > 0 and self.recipe.redrawn == 0:
            warnings.warn(
                f"model.debias {p:g} of {n} generated images is not one: the loss is the biased one"
            )

    # Training

    def on_fit_start(self) -> None:
        if self.trainer.world_size > 1:  # `world` is of a shared batch: 1 in private training
            raise UserError(
                "dp-sinkhorn trains on one device: its loss is of the whole batch", "trainer.devices"
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.private is not None:
            self.private.before(self.step)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        loss = self.fill_gradients(batch)
        if self.recipe.trainer.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.trainer.clip_norm)
        optimizer.step()
        if self.private is not None:  # in the run's folder, which stays private
            self.log("skipped", self.skipped, batch_size=1)
        return loss

    def try_step(self, batch: Batch) -> Tensor:
        self._seed(0)
        return self.fill_gradients(batch)

    def fill_gradients(self, batch: Batch) -> Tensor:
        """Puts a step's gradient into the weights' `.grad`; returns the loss.

        The batch may have any size, and be empty; n images are generated whatever it is.
        """
        n, again = self.recipe.generated, self.recipe.redrawn
        z, label = self.latents(n)
        images = self.model(z, label)
        if again:  # the first labels once more, so that both lists have the same share of each class
            same = None if label is None else label[:again]
            images = torch.cat([images, self.model(self.latents(again)[0], same)])
            label = None if label is None or same is None else torch.cat([label, same])
        with torch.autocast(images.device.type, enabled=False):
            leaf = images.detach().float().requires_grad_()
            real = self.loss.points(to_model(batch.x).float(), batch.label if self.classes else None)
            loss = self.loss(self.loss.points(leaf, label), real, n)
            (gradient,) = torch.autograd.grad(loss, leaf)
        if self.recipe.model.perturb == "images":
            gradient = self.released(gradient, n)
        images.backward(gradient.to(images.dtype))
        if self.recipe.model.perturb == "parameters":
            self._release_parameters()
        return loss.detach().float()

    def released(self, gradient: Tensor, rows: int) -> Tensor:
        """The gradient after the private step's clipping and noise; itself in training without."""
        private, privacy = self.private, self.recipe.privacy
        if private is None or privacy is None or private.std is None:
            return gradient
        self.skipped = self.skipped + (~gradient[:rows].isfinite().all()).float()
        shape = gradient[:rows].shape
        noise = private.std * private.normal(self.step, shape.numel(), gradient.device).view(shape)
        return release(gradient, noise, privacy.max_grad_norm, self.recipe.model.clip)

    def _release_parameters(self) -> None:
        """The ablation: the weights' gradient as one tensor, as it stands in `.grad`."""
        weights = [w for w in self.model.parameters() if w.grad is not None]
        flat = torch.cat([w.grad.flatten() for w in weights if w.grad is not None])
        parts = self.released(flat, len(flat)).split([w.numel() for w in weights])
        for weight, part in zip(weights, parts, strict=True):
            weight.grad = part.view_as(weight)

    def latents(self, count: int) -> tuple[Tensor, Tensor | None]:
        """Uniform latents and, where there are classes, uniform labels: how often classes are is private."""
        z = torch.rand(count, self.model.latent, generator=self.rng, device=self.device)
        if self.classes == 0:
            return z, None
        return z, torch.randint(self.classes, (count,), generator=self.rng, device=self.device)

    # Sampling

    def released_state(self) -> dict[str, Tensor]:
        """The averaged weights with statistics of their own, measured on latents."""
        model = deepcopy(self.model)
        model.load_state_dict(super().released_state())
        rng = torch.Generator(self.device).manual_seed(mix(self.recipe.seed, "statistics"))
        batches, size = STATISTICS
        label = torch.arange(size, device=self.device) % self.classes if self.classes else None
        z = torch.rand(batches, size, model.latent, generator=rng, device=self.device)
        measure_statistics(model, [(row, label) for row in z])
        return model.state_dict()

    def draw(self, request: SampleRequest) -> Drawn:
        """One call of the generator per sample; z = Phi(normal noise), so that sample i is always the same."""
        z = torch.special.ndtr(request.noise((self.model.latent,)).normal("prior"))
        x = self.model(z, request.labels if self.classes else None)
        if getattr(request.settings, THRESHOLD, False):
            x = torch.where(x < 0, -1.0, x)
        return Drawn(x.float(), nfe=1.0, manifest={"latent": self.model.latent})

    def latent_generator(self, truncation: float = 1.0) -> LatentGenerator:
        if truncation != 1:
            raise UserError("a one-shot generator of uniform latents has no truncation")
        size, classes = self.model.latent, self.classes

        def with_label(z: Tensor, label: Tensor | None) -> Tensor:
            return z if label is None else torch.cat([z, F.one_hot(label, classes).to(z)], 1)

        def pictures(w: Tensor) -> Tensor:
            label = w[:, size:].argmax(1) if classes else None
            x: Tensor = self.model(torch.special.ndtr(w[:, :size]), label)
            return x.float()

        return LatentGenerator(size, size + classes, with_label, pictures)

    def check_request(self, settings: Sample, guide: Guide | None = None) -> list[str]:
        check_one_shot(settings, guide, frozenset({THRESHOLD}))
        return []

    def solver_name(self, settings: Sample) -> str:
        return ONE_SHOT

    def compiled_parts(self) -> list[nn.Module]:
        return [self.model]
