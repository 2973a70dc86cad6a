"""Label heads on a frozen generator's features and an encoder to its W+ (Ling et al. 2021, arXiv 2111.03186)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from gentool.data import Batch, DataSet, DataSpec, open_set, to_model
from gentool.errors import UserError
from gentool.families.editgan import judging, teaching
from gentool.families.editgan.config import STROKES, EditganRecipe, FromStrokes
from gentool.families.editgan.encoder import Encoder
from gentool.families.editgan.heads import LabelHeads, head_widths
from gentool.families.editgan.lessons import Lessons
from gentool.families.editgan.losses import Likeness, Maps, squared
from gentool.families.editgan.stopping import Stopping
from gentool.families.editgan.view import View, feature_channels
from gentool.metrics.cache import digest_of
from gentool.networks.classifier import ResNetClassifier
from gentool.networks.stylegan2 import Generator
from gentool.noise import Noise
from gentool.recipes.schema import Optimizer
from gentool.training.module import GenModule
from gentool.training.optimizers import LrSchedule, build_optimizer


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

    The labelled pictures are a function of the recipe, the generator and the data alone: a resumed run makes them
    again.

    Attributes:
        class_names: of the labels.
        styles, width: of W+ codes.
        stopping: which heads learn on, where they do not with the training.
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
        self.stopping = None if config.stop is None else Stopping(config.stop, heads)
        self._lessons: Lessons | None = None
        self._photos: Tensor | None = None
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

    def maps(self, given: GenModule | None = None) -> Maps | None:
        """Feature maps of the classifier that compares pictures: this one, or the recipe's; None without one.

        Raises:
            UserError: it has no maps, or reads other pictures.
        """
        where, path = "--classifier", self.recipe.model.perceptual
        if given is None:
            if path is None or self.open_run is None:
                return None
            where, given = "model.perceptual", self.open_run(path)
        opened = given.to(self.device)
        network = getattr(opened.model, "network", None)
        if not isinstance(network, ResNetClassifier) or network.noise_conditioned:
            raise UserError(
                f"has no maps to compare clean pictures by (family {opened.recipe.family}): give a run of classifier "
                "whose network is a resnet, without model.noise",
                where,
            )
        if opened.spec.shape != self.spec.shape:
            raise UserError(f"reads pictures of {opened.spec.shape}, these are {self.spec.shape}", where)
        network.eval().requires_grad_(False)
        return network.maps

    # Labels

    def lessons(self) -> Lessons:
        """What the heads learn from, where the module is: it counts the labels before the trainer moves it."""
        if self._lessons is None or self._lessons.codes.device != self.device:
            self._lessons = teaching.lessons(self)
        return self._lessons

    def strokes(self, x: Tensor) -> Tensor:
        """Label maps (B, H, W) that pictures themselves tell, small ones left out."""
        return teaching.strokes(x, self.recipe.model, len(self.class_names))

    def photos(self) -> Tensor:
        """(N, C, H, W) in [-1, 1]: the first of the training data, which are labelled."""
        if self._photos is None:
            data = open_set(self.recipe.data, "train")
            self._photos = to_model(data.take(range(min(self.recipe.model.labelled, len(data)))).x)
        return self._photos.to(self.device)

    def assume_data(self) -> None:
        shape = (self.recipe.model.labelled, *self.spec.shape)
        self._photos = torch.randn(shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)

    def fit_to_data(self, dataset: DataSet) -> None:
        """Which classes there are to learn of."""
        self.model.heads.seen.copy_(teaching.pixels(self) > 0)

    # Training

    def configure_optimizers(self) -> Any:
        parts = (self.model.heads, self.model.encoder)
        return [build_optimizer(c, part.parameters()) for c, part in zip(self._settings(), parts)]

    def lr_schedules(self) -> list[LrSchedule]:
        return [LrSchedule(config, self.recipe.trainer.max_steps) for config in self._settings()]

    def _settings(self) -> tuple[Optimizer, Optimizer]:
        return self.recipe.optimizer, self.recipe.encoder_optimizer

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """An update of the heads that learn on, and one of the encoder; returns the sum of their losses."""
        optimizers = cast(list[LightningOptimizer], self.optimizers())
        begun = self.step >= self.recipe.model.encoder.real_from * self.recipe.trainer.max_steps
        total = torch.zeros((), device=self.device)
        for name, optimizer, loss in (
            ("heads", optimizers[0], self.heads_loss()),
            ("encoder", optimizers[1], self.encoder_loss(batch if begun else None)),
        ):
            if loss is None:
                continue
            optimizer.zero_grad()
            self.manual_backward(loss)
            if (clip := self.recipe.trainer.clip_norm) is not None:
                self.clip_gradients(
                    optimizer.optimizer, gradient_clip_val=clip, gradient_clip_algorithm="norm"
                )
            optimizer.step()
            self.log(f"loss_{name}", loss.detach())
            total = total + loss.detach()
        if self.stopping is not None:
            heads, lessons = self.model.heads, self.lessons()
            self.stopping.check(heads, self.step + 1, lambda: lessons.held_out_losses(self.view, heads))
            self.log("heads_learning", float(self.stopping.active.sum()))
        return total

    def try_step(self, batch: Batch) -> Tensor:
        self._seed(0)
        heads = self.heads_loss()
        assert heads is not None  # none has stopped yet
        loss = heads + self.encoder_loss(batch)
        loss.backward()
        return loss.detach()

    def heads_loss(self) -> Tensor | None:
        """Mean cross-entropy of the heads that learn on; None where none does."""
        config, lessons, heads = self.recipe.model, self.lessons(), self.model.heads
        learning = range(config.heads) if self.stopping is None else self.stopping.learning()
        if not learning:
            return None
        losses = heads.losses(*lessons.draw(self.view, len(learning), config.pixels, self.rng), learning)
        if self.stopping is not None:
            self.stopping.saw(losses, self.step // lessons.steps(config.pixels))
        return losses.mean()

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
    def released_state(self) -> dict[str, Tensor]:
        """Beside the weights, what an inversion is measured by later on."""
        state, prefix = super().released_state(), "heads."
        if self.stopping is not None:
            heads = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
            state |= {prefix + name: v for name, v in self.stopping.released(heads).items()}
        x = self.view.render(self.codes(range(1000, 1000 + judging.TESTED)))
        return state | {"usual": squared(self.view.render(self.view.encode(x)), x).median()}

    @torch.no_grad()
    def evaluate_model(
        self, held_out: DataSet, *, seed: int = 0, report: Callable[[int, int], None] | None = None
    ) -> dict[str, float]:
        """As of `judging.figures`."""
        found = judging.figures(self, held_out)
        if report is not None:
            report(judging.TESTED, judging.TESTED)
        return found
