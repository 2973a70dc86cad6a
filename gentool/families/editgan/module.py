"""Label heads on a frozen generator's features and an encoder to its W+ (Ling et al. 2021, arXiv 2111.03186)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from gentool.data import Batch, DataSet, DataSpec, to_model
from gentool.errors import UserError
from gentool.families.editgan import labels as labelling
from gentool.families.editgan.config import STROKES, EditganRecipe, FromStrokes
from gentool.families.editgan.encoder import Encoder
from gentool.families.editgan.heads import (
    LabelHeads,
    head_widths,
    mean_logits,
    uncertainty,
    worst_mean,
)
from gentool.families.editgan.losses import Likeness, Maps, squared
from gentool.families.editgan.view import View
from gentool.metrics.cache import digest_of
from gentool.networks.classifier import ResNetClassifier
from gentool.networks.stylegan2 import Generator
from gentool.noise import Noise
from gentool.recipes.schema import Optimizer
from gentool.training.module import GenModule
from gentool.training.optimizers import LrSchedule, build_optimizer

TESTED = 200
"""Samples, and real pictures, by which the model is judged."""


class Parts(nn.Module):
    """What is trained: `heads` and `encoder`.

    Attributes:
        usual: median squared error, in units of [0, 1], of the encoder's pictures of samples: what inversions are
            measured by.
    """

    usual: Tensor

    def __init__(self, heads: LabelHeads, encoder: Encoder) -> None:
        super().__init__()
        self.heads, self.encoder = heads, encoder
        self.register_buffer("usual", torch.zeros(()))


class EditganModule(GenModule):
    """A step: the heads by cross-entropy of labelled pixels, the encoder by samples and real pictures.

    The labelled samples are a function of the recipe and the generator alone: a resumed run makes them again.

    Attributes:
        class_names: of the labels.
        styles, width: of W+ codes.
    """

    draws_samples = False
    no_samples = "editgan draws no samples of its own: use gentool edit RUN PICTURE --method editgan ..."
    takes_turns = True
    recipe: EditganRecipe
    model: Parts

    def __init__(self, recipe: EditganRecipe, spec: DataSpec, base: GenModule) -> None:
        super().__init__(recipe, spec)
        self.automatic_optimization = False
        generator, config = base.model, recipe.model
        if not isinstance(generator, Generator):
            raise UserError(
                f"a run of the family {base.recipe.family} has no features to label: give one of stylegan2",
                "base",
            )
        if generator.classes:
            raise UserError(
                "this generator takes class labels: train it with model.conditional=false", "base"
            )
        if spec.kind != "image" or base.spec.shape != spec.shape:
            raise UserError(
                f"the generator makes pictures of {base.spec.shape}, {recipe.data.name} is {spec.kind} data of "
                f"{spec.shape}",
                "base",
            )
        self.adopt(base)
        # past nn.Module's registry, as the base itself: it moves along with it and is saved with it alone
        self.__dict__["generator"] = generator
        self.class_names = STROKES if isinstance(config.labels, FromStrokes) else config.labels.classes
        synthesis = generator.synthesis
        hidden = config.hidden or head_widths(len(self.class_names))
        self.styles, self.width = synthesis.num_ws, generator.style
        heads = LabelHeads(config.heads, feature_channels(generator), hidden, len(self.class_names))
        self.model = Parts(heads, Encoder(config.encoder, spec.shape, synthesis.num_ws, generator.style))
        self.model.encoder.centre.copy_(generator.mapping.w_avg)
        self._labelled: tuple[Tensor, Tensor] | None = None
        self._maps: Maps | None = None

    # The generator

    def codes(self, indices: range | list[int], seed: int | None = None) -> Tensor:
        """W+ (B, styles, width) of samples of a seed (None: the recipe's)."""
        config, generator = self.recipe.model, cast(Generator, self.generator)
        noise = Noise(config.seed if seed is None else seed, indices, (generator.latent,), self.device)
        w = generator.truncated(generator.mapping(noise.normal("prior")), config.truncation)
        return w[:, None].repeat(1, generator.synthesis.num_ws, 1)

    @property
    def view(self) -> View:
        """What generator, heads and encoder make of codes and pictures."""
        generator = cast(Generator, self.generator)
        return View(generator, self.model.heads, self.model.encoder, self.spec.shape[1])

    def digest(self) -> str:
        """SHA-256 of the generator, which editing vectors belong to."""
        return digest_of(cast(Generator, self.generator).state_dict())

    def maps(self, path: str | None = None) -> Maps | None:
        """Feature maps of the classifier that compares pictures: this run's, or the recipe's; None without one.

        Raises:
            UserError: it has no maps, or reads other pictures.
        """
        path = path or self.recipe.model.perceptual
        if path is None or self.open_run is None:
            return None
        opened = self.open_run(path).to(self.device)
        network = getattr(opened.model, "network", None)
        if not isinstance(network, ResNetClassifier) or network.noise_conditioned:
            raise UserError(
                f"has no maps to compare clean pictures by (family {opened.recipe.family}): give a run of classifier "
                "whose network is a resnet, without model.noise",
                path,
            )
        if opened.spec.shape != self.spec.shape:
            raise UserError(f"reads pictures of {opened.spec.shape}, these are {self.spec.shape}", path)
        network.eval().requires_grad_(False)
        return network.maps

    # Labels

    def labelled(self) -> tuple[Tensor, Tensor]:
        """Codes (N, styles, width) of the labelled samples, and their label maps (N, H, W)."""
        if self._labelled is None:
            config, size, count = self.recipe.model, self.spec.shape[1], len(self.class_names)
            if isinstance(config.labels, FromStrokes):
                codes = self.codes(range(config.labelled))
                with torch.no_grad():
                    found = labelling.stroke_labels(self.view.render(codes), config.labels.threshold)
            else:
                indices, found = labelling.read_masks(Path(config.labels.path), count, size, self.say)
                codes = self.codes(indices)
            found = labelling.without_specks(found, config.fewest, count).to(self.device)
            self._labelled = codes, found
        return self._labelled

    def fit_to_data(self, dataset: DataSet) -> None:
        """Which classes there are to learn of, and the classifier that compares pictures."""
        with torch.no_grad():
            known = self.labelled()[1]
        counts = torch.bincount(known.flatten(), minlength=len(self.class_names))
        self.model.heads.seen.copy_(counts > 0)
        told = ", ".join(f"{n}: {c}" for n, c in zip(self.class_names, counts.tolist()))
        self.say(f"{len(known)} labelled samples, pixels by class: {told}")
        for name, count in zip(self.class_names, counts.tolist()):
            if count == 0:
                self.say(f"warning: {name} is in no labelled sample: it will never be predicted")

    def pixels(self, codes: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Features (heads, N, D) and labels (heads, N) of each head's own choice of pixels, of every class alike.

        Features are made anew for a few of the labelled samples in every step: those of all would not fit in memory.
        """
        config, flat = self.recipe.model, known.flatten(1)
        with torch.no_grad():
            features = self.view.features(codes)[1].movedim(1, -1).flatten(0, 2)
        flat = flat.flatten()
        counts = torch.bincount(flat, minlength=len(self.class_names)).clamp(min=1)
        chance = (1.0 / counts)[flat].expand(config.heads, -1)
        rows = torch.multinomial(chance, config.pixels, replacement=True, generator=self.rng)
        return features[rows], flat[rows]

    # Training

    def configure_optimizers(self) -> Any:
        parts = (self.model.heads, self.model.encoder)
        return [build_optimizer(c, part.parameters()) for c, part in zip(self._settings(), parts)]

    def lr_schedules(self) -> list[LrSchedule]:
        return [LrSchedule(config, self.recipe.trainer.max_steps) for config in self._settings()]

    def _settings(self) -> tuple[Optimizer, Optimizer]:
        return self.recipe.optimizer, self.recipe.encoder_optimizer

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """An update of the heads and one of the encoder; returns the sum of their losses."""
        optimizers = cast(list[LightningOptimizer], self.optimizers())
        begun = self.step >= self.recipe.model.encoder.real_from * self.recipe.trainer.max_steps
        total = torch.zeros((), device=self.device)
        for name, optimizer, loss in (
            ("heads", optimizers[0], self.heads_loss()),
            ("encoder", optimizers[1], self.encoder_loss(batch if begun else None)),
        ):
            optimizer.zero_grad()
            self.manual_backward(loss)
            if (clip := self.recipe.trainer.clip_norm) is not None:
                self.clip_gradients(
                    optimizer.optimizer, gradient_clip_val=clip, gradient_clip_algorithm="norm"
                )
            optimizer.step()
            self.log(f"loss_{name}", loss.detach())
            total = total + loss.detach()
        return total

    def try_step(self, batch: Batch) -> Tensor:
        self._seed(0)
        loss = self.heads_loss() + self.encoder_loss(batch)
        loss.backward()
        return loss.detach()

    def heads_loss(self) -> Tensor:
        """Mean cross-entropy of the heads on pixels of up to 4 labelled samples."""
        codes, known = self.labelled()
        order = torch.randperm(len(codes), generator=self.rng, device=self.device)[:4]
        return self.model.heads.losses(*self.pixels(codes[order], known[order])).mean()

    def encoder_loss(self, batch: Batch | None) -> Tensor:
        """On samples, whose codes are known, and on real pictures where they are given."""
        config, generator = self.recipe.model.encoder, cast(Generator, self.generator)
        if self._maps is None and self.recipe.model.perceptual is not None:
            self._maps = self.maps()
        z = self.global_draw(
            config.samples,
            lambda n: torch.randn(n, generator.latent, generator=self.rng, device=self.device),
        )
        with torch.no_grad():
            w = generator.truncated(generator.mapping(z), self.recipe.model.truncation)
            x = self.view.render(w[:, None].expand(-1, self.styles, -1))
        ws = self.view.encode(x)
        loss = config.latent_weight * (ws - w[:, None]).square().mean() + self._alike(x, ws)
        if batch is not None:
            real = to_model(batch.x).to(x)
            loss = loss + self._alike(real, self.view.encode(real))
        return loss

    def _alike(self, x: Tensor, ws: Tensor) -> Tensor:
        config = self.recipe.model.encoder
        alike = Likeness(self._maps, x, config.perceptual_weight, config.pixel_weight)
        return alike(self.view.render(ws)).mean()

    @torch.no_grad()
    def on_train_end(self) -> None:
        """What an inversion is measured by later on."""
        super().on_train_end()
        self.model.eval()
        x = self.view.render(self.codes(range(1000, 1000 + TESTED)))
        self.model.usual.copy_(squared(self.view.render(self.view.encode(x)), x).median())
        self.model.train()

    @torch.no_grad()
    def evaluate_model(
        self, held_out: DataSet, *, seed: int = 0, report: Callable[[int, int], None] | None = None
    ) -> dict[str, float]:
        """Of samples that were not labelled: `uncertainty`, and with labels by strokes `iou-CLASS`; of held-out
        pictures `encoder-error`, the root mean square error of a pixel in [0, 1]."""
        config, parts = self.recipe.model, []
        codes = self.codes(range(10_000, 10_000 + TESTED))
        both = [self.view.features(c) for c in codes.split(50)]
        for _, features in both:
            parts.append(self.model.heads(features))
        logits = torch.cat(parts, 1)
        figures = {"uncertainty": float(worst_mean(uncertainty(logits)).mean())}
        if isinstance(config.labels, FromStrokes):
            known = labelling.stroke_labels(torch.cat([x for x, _ in both]), config.labels.threshold)
            said = mean_logits(logits).argmax(1).cpu()
            for k, name in enumerate(self.class_names):
                either = int(((known == k) | (said == k)).sum())
                if either:
                    figures[f"iou-{name}"] = int(((known == k) & (said == k)).sum()) / either
        real = to_model(held_out.take(range(min(TESTED, len(held_out)))).x).to(self.device)
        figures["encoder-error"] = float(
            squared(self.view.render(self.view.encode(real)), real).mean().sqrt()
        )
        if report is not None:
            report(TESTED, TESTED)
        return figures


def feature_channels(generator: Generator) -> int:
    """How many features a pixel has: those of the constant and of every convolution."""
    blocks = [b for name, b in generator.synthesis.named_children() if name.startswith("b")]
    convs = [conv for block in blocks for conv in cast(Any, block).layers.values()]
    return cast(int, convs[0].weight.shape[0]) + sum(conv.weight.shape[0] for conv in convs)
