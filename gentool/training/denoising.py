"""What every family of one denoiser shares: its network, its loss, its samples (EDM, arXiv 2206.00364, eq. 2-8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gentool import networks
from gentool.data import Batch, DataSpec, to_model
from gentool.diffusion import denoiser as denoisers
from gentool.diffusion import likelihood, variational
from gentool.diffusion import loss as losses
from gentool.diffusion import precond as preconds
from gentool.diffusion.denoiser import Denoiser
from gentool.diffusion.likelihood import Likelihood
from gentool.diffusion.loss import Loss
from gentool.errors import UserError
from gentool.networks.augment import LABELS, augment
from gentool.noise import Noise
from gentool.recipes.schema import Sample
from gentool.training import drawable, drawing
from gentool.training.denoising_config import NetworkRecipe
from gentool.training.fitting import model_batches
from gentool.training.module import Examples, GenModule
from gentool.training.sampling import Drawn, Guide, SampleRequest


class DenoisingModule(GenModule):
    """Any process, preconditioning, law of noise levels, weight and network of the shared floor.

    A family subclasses it and its recipe class (`denoising_config.DenoisingRecipe`), and overrides what differs; one
    with a process outside `DiffusionConfig` starts from `denoising_config.NetworkRecipe` and writes `build_model`.
    """

    averages_draws = True
    recipe: NetworkRecipe
    model: Denoiser
    loss: Loss

    def __init__(self, recipe: NetworkRecipe, spec: DataSpec) -> None:
        super().__init__(recipe, spec)
        config = recipe.model
        if config.conditional and spec.classes == 0:
            raise UserError(f"model.conditional: the data set {recipe.data.name} has no labels")
        if (config.augment or config.flip) and spec.kind != "image":
            raise UserError(
                f"model.augment and model.flip are for images; {recipe.data.name} is {spec.kind} data"
            )
        self.classes = spec.classes if config.conditional else 0
        self.model, self.loss = self.build_model()

    def build_model(self) -> tuple[Denoiser, Loss]:
        """The denoiser around its network, and the loss that it learns by."""
        config = self.recipe.model.diffusion
        model = denoisers.build(config, self.build_network)
        simple = losses.build(config, model)
        if config.loss.hybrid is None:
            return model, simple
        if self.spec.kind != "image":
            raise UserError(
                f"its last term is of pixels in 256 values; {self.recipe.data.name} is {self.spec.kind} data",
                "model.loss.hybrid",
            )
        return model, variational.hybrid(simple, model.process, config.loss.hybrid)

    def build_network(self, out_factor: int, in_factor: int = 1) -> networks.Network:
        """The recipe's network, for inputs and outputs of so many times the data's channels."""
        channels, size = network_shape(self.spec)
        config = self.recipe.model.network
        if self.recipe.model.augment:  # the network is told what was done to its input
            config = config.model_copy(update={"augment": LABELS})
        return networks.build(config, channels * in_factor, channels * out_factor, size, self.classes)

    def fit_to_data(self, dataset: Any) -> None:
        if self.model.precond.unmeasured:
            self.model.precond.set_sigma_data(preconds.measure_sigma_data(model_batches(dataset)))

    def fit_privately(self) -> None:
        if self.model.precond.unmeasured:
            raise UserError(
                "it would be measured on the private data: give the constant, 0.57735 (of uniform pixels) for instance",
                "model.precond.sigma_data",
            )
        if self.loss.stratified:
            raise UserError(
                "private training needs each record's draw to be independent of the others: leave it false",
                "model.loss.times.stratified",
            )

    def assume_data(self) -> None:
        if self.model.precond.unmeasured:
            self.model.precond.set_sigma_data(0.5)

    def examples(self, batch: Batch) -> Examples:
        """Pictures after augmentation, labels after dropping, and the loss's draws."""
        x0, config = to_model(batch.x), self.recipe.model
        found: Examples = {}
        label = self.training_labels(batch.label)
        if label is not None:
            found["label"] = label
        if config.augment:
            x0, found["augment"] = augment(x0, self.host_rng, config.augment)
        elif config.flip:
            x0 = self.mirrored(x0)
        draws = self.loss.draw(len(x0) * self.world, x0.shape[1:], self.rng, draws=self.draws)
        found["u"], found["noise"] = (self.own_rows(v) for v in draws)
        return {"x0": x0, **found}

    def losses(self, examples: Examples) -> Tensor:
        return self.loss(
            self.model,
            examples["x0"],
            examples.get("label"),
            examples.get("augment"),
            examples["u"],
            examples["noise"],
        )

    def training_labels(self, label: Tensor) -> Tensor | None:
        """Labels with a share of them replaced by the null label, sample by sample."""
        return self.dropped_labels(label, self.recipe.model.label_dropout)

    def draw(self, request: SampleRequest) -> Drawn:
        return drawing.draw(self.model, request, self.sampling_traits())

    def sampling_traits(self) -> drawing.Traits:
        return drawing.Traits(
            shape=self.spec.shape,
            classes=self.classes,
            label_dropout=self.recipe.model.label_dropout if self.classes else 0.0,
            images=self.spec.kind == "image",
        )

    def sampling_means(self) -> frozenset[str]:
        return drawing.means(self.model, self.sampling_traits())

    def check_request(self, settings: Sample, guide: Guide | None = None) -> list[str]:
        return drawable.check(settings, self.model, self.sampling_traits(), guide)

    def log_likelihood(self, x: Tensor, noise: Noise, label: Tensor | None = None) -> Likelihood:
        prior = self.likelihood_prior()
        return likelihood.log_likelihood(self.model, self.model.process, x, noise, label=label, prior=prior)

    def likelihood_prior(self) -> Callable[[Tensor], Tensor] | None:
        """Log density (B,) of the end of the likelihood's ODE; None for the Gaussian of the process."""
        return None

    def compiled_parts(self) -> list[torch.nn.Module]:
        return [self.model.network]


def network_shape(spec: DataSpec) -> tuple[int, tuple[int, ...]]:
    """(channels, spatial size) as `networks.build` takes them."""
    if spec.kind == "image":
        return spec.shape[0], tuple(spec.shape[1:])
    if spec.kind == "vector":
        return 1, tuple(spec.shape)
    raise UserError(f"a denoiser of this family models images and vectors, not {spec.kind} data")
