"""GENIE: distil d eps/d sigma along a frozen model's flow into a small head (arXiv 2210.05475, section 3.2)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from gentool.data import Batch, DataSet, DataSpec, to_model
from gentool.diffusion.convert import per_sample
from gentool.diffusion.derivative import DerivativeHead, Mode, along_flow, find_mode
from gentool.diffusion.likelihood import Likelihood
from gentool.diffusion.process import Process
from gentool.diffusion.processes import Vp
from gentool.errors import UserError
from gentool.families.genie.config import GenieRecipe
from gentool.networks.base import Features, Network
from gentool.networks.embedding import full_precision
from gentool.networks.head import build_head
from gentool.noise import Noise
from gentool.recipes.schema import Sample
from gentool.training import drawable, drawing
from gentool.training.denoising import DenoisingModule, network_shape
from gentool.training.module import Examples, GenModule
from gentool.training.sampling import Drawn, Guide, SampleRequest


class GenieModule(GenModule):
    """A head on a frozen denoiser, trained on L = E gamma^2 sum_pixels (k - d eps/d gamma)^2 (GENIE, eq. 14).

    The targets are exact derivatives of the base's prediction, its averaged weights in eval mode, all in full
    precision: under autocast the derivative in the noise level overflows. The head is fed the predicted eps, as it is
    when sampling. The base itself is what samples; the head bends its steps.

    Attributes:
        mode: how derivatives are taken; `fit_to_data` finds out what the base's network can do.
    """

    recipe: GenieRecipe
    model: DerivativeHead
    base: DenoisingModule

    def __init__(self, recipe: GenieRecipe, spec: DataSpec, base: GenModule) -> None:
        super().__init__(recipe, spec)
        check_base(base, spec, recipe)
        self.adopt(base)
        self.classes = self.base.classes
        self.mode: Mode = "forward"
        self.sigma = VpUniform(self.base.model.process)
        factor = 3 if recipe.model.mixed else 1
        head = build_head(recipe.model.head, spec.shape, factor, self._shapes())
        self.model = DerivativeHead(head, recipe.model.mixed)

    def _shapes(self) -> Features | None:
        """Features of one call of the base's network; None where it exposes none, and none are asked for."""
        network = self.base.model.network
        if not isinstance(network, Network):
            config = self.recipe.model.head
            if config.features == "network":
                raise UserError(
                    f"the base's network {type(network).__name__} has no features() for a head to read; "
                    "take model.head.features=none and set model.head.channels"
                )
            if config.channels is None:
                raise UserError("a head that reads no features needs its width", "model.head.channels")
            return None
        channels, size = network_shape(self.spec)
        device = next(network.parameters()).device
        shape = (1, channels, *size) if self.spec.kind == "image" else (1, *size)
        with torch.no_grad():
            found: Features = network.features(
                torch.zeros(shape, device=device), torch.zeros(1, device=device)
            )
        return found

    def fit_to_data(self, dataset: DataSet) -> None:
        self.base.fit_to_data(dataset)
        self._try_derivative()

    def fit_privately(self) -> None:
        """A trained base has its constants, and nothing else is measured."""
        self.assume_data()

    def assume_data(self) -> None:
        self.base.assume_data()
        self._try_derivative()

    def _try_derivative(self) -> None:
        """What the network's operations allow shows at the first derivative; better here than in step 1."""
        like = next(self.base.model.network.parameters())
        x = torch.zeros(1, *self.spec.shape, device=like.device, dtype=like.dtype)
        self.mode = find_mode(self.base.model.eps, x, torch.ones_like(x.flatten()[:1]))

    def examples(self, batch: Batch) -> Examples:
        """Pictures, labels after dropping (as the base was trained), and noise with its level."""
        x0 = to_model(batch.x)
        found: Examples = {}
        label = self.dropped_labels(batch.label, self.base.recipe.model.label_dropout)
        if label is not None:
            found["label"] = label
        if self.recipe.model.flip:
            x0 = self.mirrored(x0)
        u = self.global_draw(
            len(x0),
            lambda n: torch.rand(n, generator=self.rng, device=self.device, dtype=torch.float64),
        )
        found["sigma"] = self.sigma(u).to(x0)
        found["noise"] = self.global_draw(
            len(x0), lambda n: torch.randn(n, *x0.shape[1:], generator=self.rng, device=self.device)
        )
        return {"x0": x0, **found}

    def losses(self, examples: Examples) -> Tensor:
        """(B,) weighted squared errors, summed over pixels."""
        sigma = examples["sigma"]
        x = examples["x0"] + per_sample(sigma, examples["x0"]) * examples["noise"]
        with full_precision(x.device):
            eps, target, features = self.target(x, sigma, examples.get("label"))
            error = (self.model(x, eps, sigma, features) - target).square().flatten(1).sum(1)
        return error * sigma**2 if self.recipe.model.weight == "gamma-squared" else error

    @torch.no_grad()
    def target(
        self, x: Tensor, sigma: Tensor, label: Tensor | None
    ) -> tuple[Tensor, Tensor, Features | None]:
        """(eps, d eps/d sigma, features) of the base at x (B, ...), sigma (B,)."""
        denoiser = self.base.model
        _, eps, features = self.model.call(denoiser, x, sigma, label)
        _, slope = along_flow(lambda x, sigma: denoiser.eps(x, sigma, label), x, sigma, eps, self.mode)
        return eps, slope, features

    def derive(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """(D, d eps/d sigma) as the head predicts it; arguments as the denoiser's."""
        return self.model.predict(self.base.model, x, sigma, label)

    def draw(self, request: SampleRequest) -> Drawn:
        return drawing.draw(self.base.model, request, self.sampling_traits())

    def sampling_traits(self) -> drawing.Traits:
        return replace(self.base.sampling_traits(), derive=self.derive)

    def sampling_means(self) -> frozenset[str]:
        return drawing.means(self.base.model, self.sampling_traits())

    def check_request(self, settings: Sample, guide: Guide | None = None) -> list[str]:
        return drawable.check(settings, self.base.model, self.sampling_traits(), guide)

    def log_likelihood(self, x: Tensor, noise: Noise, label: Tensor | None = None) -> Likelihood:
        """The base's: the head bends its steps, not its flow."""
        return self.base.log_likelihood(x, noise, label)

    def compiled_parts(self) -> list[nn.Module]:
        return [self.model.network]


def check_base(base: GenModule, spec: DataSpec, recipe: GenieRecipe) -> None:
    """Refuses a base that has no one flow to differentiate, or that models other data.

    Raises:
        UserError: what is wrong with it.
    """
    if not isinstance(base, DenoisingModule):
        raise UserError(
            f"the family {base.recipe.family} is not one denoiser, whose flow a head could follow", "base"
        )
    if base.model.process.state_parts > 1:
        raise UserError("its states have a velocity, and no flow in sigma for a head to follow", "base")
    if type(base).draw is not DenoisingModule.draw:
        raise UserError(
            f"the family {base.recipe.family} has a noise law of its own, and a head learns Gaussian noise",
            "base",
        )
    ours, theirs = ((s.kind, s.shape, s.classes) for s in (spec, base.spec))
    if ours[:2] != theirs[:2] or (base.classes and spec.classes != base.classes):
        told = " and ".join(
            f"{whose} {kind} data of shape {'x'.join(map(str, shape))} in {classes} classes"
            for whose, (kind, shape, classes) in (
                ("the base makes", theirs),
                (f"{recipe.data.name} is", ours),
            )
        )
        raise UserError(f"{told}: set data to what the base was trained on", "base")
    if not base.model.precond.continuous:
        raise UserError(
            f"its preconditioning {base.model.precond.name} rounds noise levels to discrete ones, where the derivative "
            "is zero",
            "base",
        )


class VpUniform:
    """sigma at t ~ U(t_min, t_max) of the variance-preserving process, over the range of `process` (GENIE, eq. 14).

    A process of another name is read on the clock of the paper's (beta from 0.1 to 20): a head is trained where the
    paper trains it, whatever the base's own time is.
    """

    def __init__(self, process: Process) -> None:
        self.clock = process if isinstance(process, Vp) else Vp()
        ends = torch.tensor([process.sigma_min, process.sigma_max], dtype=torch.float64)
        self.low, self.high = self.clock.t_of_sigma(ends).tolist()

    def __call__(self, u: Tensor) -> Tensor:
        """u (B,) in [0, 1), float64 -> sigma (B,)."""
        return self.clock.sigma(self.low + u * (self.high - self.low))
