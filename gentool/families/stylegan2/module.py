"""StyleGAN2 with adaptive discriminator augmentation (Karras et al. 2020, 1912.04958 and 2006.06676)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer as TorchOptimizer

from gentool.data import Batch, DataSet, DataSpec, to_model
from gentool.errors import UserError
from gentool.families.stylegan2.config import OWN_SAMPLING, Stylegan2Recipe, Stylegan2Sample
from gentool.families.stylegan2.lazy import path_lengths, rescaled
from gentool.families.stylegan2.weights import check_generator, load_into
from gentool.networks import ada
from gentool.networks.embedding import full_precision
from gentool.networks.stylegan2 import Generator, LayerNoise
from gentool.networks.stylegan2_discriminator import Discriminator
from gentool.recipes.schema import Optimizer, Sample
from gentool.training.adversarial import AdversarialModule, frozen, gradient_squares
from gentool.training.latent import LatentGenerator
from gentool.training.one_shot import ONE_SHOT
from gentool.training.sampling import Drawn, Guide, SampleRequest, check_one_shot

LARGEST_SLOPE = 1e5
"""What an infinite entry of a gradient counts as; one that is not a number counts as 0."""


class Stylegan2Module(AdversarialModule):
    """A step: the generator, every 4th step its penalty, the discriminator, every 16th step its penalty.

    Each has latents, noise and augmentations of its own, and a penalty an optimiser step of its own.

    Attributes:
        path_mean: running mean of the path lengths.
        p: probability of each augmentation.
        sign: sum, since p was last updated, of the mean signs of the logits of real pictures.
        penalty: the last squared gradient, for the log.
    """

    recipe: Stylegan2Recipe
    model: Generator
    discriminator: Discriminator
    path_mean: Tensor
    p: Tensor
    sign: Tensor
    penalty: Tensor
    remedies = "raise model.r1.gamma, or lower optimizer.lr and discriminator_optimizer.lr"

    def __init__(self, recipe: Stylegan2Recipe, spec: DataSpec) -> None:
        super().__init__(recipe, spec)
        config = recipe.model
        if spec.kind != "image" or spec.shape[1] != spec.shape[2]:
            what = (
                f"{spec.kind} data"
                if spec.kind != "image"
                else f"pictures of {spec.shape[1]}x{spec.shape[2]}"
            )
            raise UserError(f"stylegan2 makes square pictures; {recipe.data.name} has {what}")
        if config.conditional and spec.classes == 0:
            raise UserError(f"model.conditional: the data set {recipe.data.name} has no labels")
        if config.augment is not None and config.augment.pipe == "bgc" and spec.shape[0] not in (1, 3):
            raise UserError(
                f"model.augment.pipe: bgc is for gray and RGB pictures, and {recipe.data.name} has {spec.shape[0]} "
                "channels; take bg"
            )
        self.classes = spec.classes if config.conditional else 0
        self.model = Generator(config.network, spec.shape[0], spec.shape[1], self.classes)
        self.discriminator = Discriminator(config.discriminator, spec.shape[0], spec.shape[1], self.classes)
        start = 0.0 if config.augment is None else config.augment.p
        for name, value in (("path_mean", 0.0), ("p", start), ("sign", 0.0), ("penalty", 0.0)):
            self.register_buffer(name, torch.tensor(value))

    def fit_to_data(self, dataset: DataSet) -> None:
        """Loads what the recipe starts from, and says what its settings imply."""
        self.warn_of_groups(self.discriminator.group)
        if (path := self.recipe.model.weights) is not None:
            load_into(self.model, path, "model.weights")
            for line in check_generator(self.model):
                self.say(f"warning: {path}: {line}")
        if (path := self.recipe.model.discriminator_weights) is not None:
            load_into(self.discriminator, path, "model.discriminator_weights")

    # One training step

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """All updates; returns the sum of the two networks' losses, by which a NaN is noticed."""
        optimizers, config = self.both_optimizers(), self.recipe.model
        x0, label = self.data(batch)
        path = config.path_length.weight > 0 and self.step % config.path_length.every == 0
        r1 = config.r1.gamma > 0 and self.step % config.r1.every == 0
        losses = {}
        for which, name, loss in self.turns(x0, label, path=path, r1=r1):
            self.update(optimizers[which], loss)
            losses[name] = loss.detach()
        self._steer()
        if self.logs_now():
            self.log_dict({f"loss_{name}": losses[name] for name in ("generator", "discriminator")})
            self.log_dict({"path_length": self.path_mean, "r1": self.penalty, "augment_p": self.p})
        return losses["generator"] + losses["discriminator"]

    def try_step(self, batch: Batch) -> Tensor:
        """A step with both penalties, which not every step has: memory at its peak, speed at its lowest."""
        self._seed(0)
        config, total = self.recipe.model, torch.zeros((), device=self.device)
        x0, label = self.data(batch)
        for _, _, loss in self.turns(x0, label, path=config.path_length.weight > 0, r1=config.r1.gamma > 0):
            loss.backward()
            total = total + loss.detach()
        return total

    def turns(
        self, x0: Tensor, label: Tensor | None, *, path: bool, r1: bool
    ) -> Iterator[tuple[int, str, Tensor]]:
        """(0 for the generator, 1 for the discriminator; a name; the loss) of each update, to be made at once."""
        config = self.recipe.model
        with frozen(self.discriminator):
            yield 0, "generator", self.generator_loss(len(x0), label)
        if path:
            factor = config.path_length.weight * config.path_length.every
            yield 0, "path", factor * self.path_penalty(len(x0), label)
        yield 1, "discriminator", self.discriminator_loss(x0, label)
        if r1:
            self.penalty.copy_((squares := self.r1(x0, label)).detach())
            yield 1, "r1", config.r1.gamma / 2 * config.r1.every * squares

    def data(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Data after mirroring, in the networks' own type, and labels where the model takes them."""
        x0 = to_model(batch.x).to(next(self.model.parameters()).dtype)
        return self.mirrored(x0) if self.recipe.model.flip else x0, batch.label if self.classes else None

    def generated(self, count: int, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Fresh pictures (B, C, H, W) and the w of each layer (B, num_ws, style) that they are made from."""
        synthesis, latent = self.model.synthesis, self.model.latent
        normal = partial(self._normal, count)
        w = self.model.mapping(normal(latent), label)
        self.model.mapping.track(w)
        ws = w[:, None].expand(-1, synthesis.num_ws, -1)
        if (chance := self.recipe.model.mixing) > 0:
            u, place = torch.rand(2, generator=self.rng, device=self.device)
            first = 1 + (place * (synthesis.num_ws - 1)).floor()  # one of 1 .. num_ws - 1
            second = torch.arange(synthesis.num_ws, device=self.device) >= first
            other = self.model.mapping(normal(latent), label)
            ws = torch.where((second & (u < chance))[None, :, None], other[:, None], ws)
        image = synthesis(ws, [normal(1, r, r) for r in synthesis.planes])
        return image.to(ws.dtype), ws

    def _normal(self, count: int, *shape: int) -> Tensor:
        return self.drawn(torch.randn, count, *shape).to(next(self.model.parameters()).dtype)

    def logits(self, x: Tensor, label: Tensor | None) -> Tensor:
        """The discriminator's (B,) of augmented pictures."""
        if (config := self.recipe.model.augment) is not None:
            uniform = self.drawn(torch.rand, len(x), ada.UNIFORMS)
            normal = self.drawn(torch.randn, len(x), ada.NORMALS)
            x = ada.augment(x, ada.Draws(self.p, uniform, normal), config.pipe)
        return self.discriminator(x, label)

    def generator_loss(self, count: int, label: Tensor | None) -> Tensor:
        """E softplus(-D(G(z)))."""
        return F.softplus(-self.logits(self.generated(count, label)[0], label)).mean()

    def discriminator_loss(self, x0: Tensor, label: Tensor | None) -> Tensor:
        """E softplus(D(G(z))) + E softplus(-D(x0))."""
        with torch.no_grad():
            made, _ = self.generated(len(x0), label)
        fake, real = self.logits(made, label), self.logits(x0, label)
        self.sign.add_(real.detach().sign().mean())
        return F.softplus(fake).mean() + F.softplus(-real).mean()

    def path_penalty(self, count: int, label: Tensor | None) -> Tensor:
        """E (|J^T y| - mean)^2 over a part of the batch; the mean follows the lengths, with a gradient of its own."""
        config = self.recipe.model.path_length
        part = max(1, count // config.shrink)
        with full_precision(self.device):
            image, ws = self.generated(part, None if label is None else label[:part])
            lengths = path_lengths(image, ws, self._normal(part, *image.shape[1:]))
        mean = self.path_mean.lerp(lengths.mean().to(self.path_mean), config.decay)
        self.path_mean.copy_(mean.detach())
        return (lengths - mean).square().mean()

    def r1(self, x0: Tensor, label: Tensor | None) -> Tensor:
        """E |grad_x D(x)|^2 at real pictures, by way of their augmentation."""
        x = x0.detach().requires_grad_()
        with full_precision(self.device):
            return gradient_squares(self.logits(x, label), x).mean()

    def _steer(self) -> None:
        """Every few steps, p by a whole step towards the target."""
        config = self.recipe.model.augment
        if config is None or config.target is None or (self.step + 1) % config.every:
            return
        change = config.every * self.images_per_step / config.images
        self.p.copy_(ada.adapted(self.p, self.sign / config.every, config.target, change, config.most))
        self.sign.zero_()

    def on_before_optimizer_step(self, optimizer: TorchOptimizer) -> None:
        """A penalty's second derivatives may overflow where the loss does not: such entries are cut."""
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            if parameter.grad is not None:
                parameter.grad.nan_to_num_(0.0, LARGEST_SLOPE, -LARGEST_SLOPE)

    def optimizer_settings(self) -> tuple[Optimizer, Optimizer]:
        config = self.recipe.model
        generator, discriminator = super().optimizer_settings()
        return rescaled(generator, config.path_length.every), rescaled(discriminator, config.r1.every)

    def compiled_parts(self) -> list[nn.Module]:
        """The synthesis alone: compiled modules have no second derivatives, which the discriminator's penalty takes."""
        return [self.model.synthesis]

    # Sampling

    def draw(self, request: SampleRequest) -> Drawn:
        """One call of the generator a sample; the latents, and the layers' noise if asked for, by counter."""
        settings, model = cast(Stylegan2Sample, request.settings), self.model
        own = next(model.parameters()).dtype
        w = model.mapping(
            request.noise((model.latent,), own).normal("prior"), request.labels if self.classes else None
        )
        w = model.truncated(w, settings.truncation, settings.cutoff)
        noise: LayerNoise
        if settings.noise == "random":
            planes = enumerate(model.synthesis.planes)
            noise = [request.noise((1, r, r), own).normal("layer", i) for i, r in planes]
        else:
            noise = settings.noise
        manifest = {"latent": model.latent, "truncation": settings.truncation, "noise": settings.noise}
        return Drawn(model.synthesis(w, noise).float(), nfe=1.0, manifest=manifest)

    def latent_generator(self, truncation: float = 1.0) -> LatentGenerator:
        """With the layers' noise constant: what is labelled, led and judged is one picture a latent."""
        model = self.model
        return LatentGenerator(
            latent=model.latent,
            width=model.style,
            map=lambda z, label: model.truncated(model.mapping(z, label), truncation),
            pictures=lambda w: model.synthesis(w, "const").float(),
            layers=model.synthesis.num_ws,
        )

    def check_request(self, settings: Sample, guide: Guide | None = None) -> list[str]:
        check_one_shot(settings, guide, OWN_SAMPLING)
        cutoff = cast(Stylegan2Sample, settings).cutoff
        if cutoff is not None and cutoff > self.model.synthesis.num_ws:
            raise UserError(
                f"{cutoff}: the generator has {self.model.synthesis.num_ws} layers", "sample.cutoff"
            )
        return []

    def solver_name(self, settings: Sample) -> str:
        return ONE_SHOT
