"""LION's two stages in one training: the autoencoder, then a diffusion prior of each latent (2210.06978)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from gentool.data import Batch, DataSet, DataSpec, to_model
from gentool.errors import UserError
from gentool.families.lion.autoencoder import Autoencoder, kl_weight
from gentool.families.lion.conditions import asked, bags, read_vectors
from gentool.families.lion.config import LionModel, LionRecipe, LionSample
from gentool.families.lion.degrade import degrade
from gentool.families.lion.generation import Generation
from gentool.families.lion.priors import Priors
from gentool.families.lion.stages import StagedRate, autoencoder_losses, load_start, prior_losses, watched
from gentool.recipes.schema import Sample
from gentool.training import drawable, drawing
from gentool.training.ema import Ema
from gentool.training.module import Examples, GenModule
from gentool.training.optimizers import LrSchedule, build_optimizer
from gentool.training.sampling import Drawn, Guide, SampleRequest

Stage = Literal["vae", "priors", "encoders"]
WATCHED = 4
"""Clouds of a batch that the logged reconstruction error is measured on."""
WORSE = 5.0
"""A reconstruction this many times as far from the cloud as its points from their neighbours (both ways, squared) calls
for a smaller weight of the divergences."""


class LionNetworks(nn.Module):
    """All that samples need."""

    def __init__(self, config: LionModel, classes: int, vector: int) -> None:
        super().__init__()
        self.autoencoder = Autoencoder(config)
        self.priors = Priors(config, classes, vector)


class LionModule(GenModule):
    """Steps 1 .. `model.vae.steps` train the autoencoder, the rest the priors on its latents, with the average of the
    weights; with `model.guided` all steps train the encoders alone."""

    recipe: LionRecipe
    model: LionNetworks
    takes_turns = True
    remedies = (
        "lower vae_optimizer.lr (optimizer.lr in the second stage), lengthen its warmup, raise model.vae.ramp to 1, "
        "or set trainer.clip_norm"
    )

    def __init__(self, recipe: LionRecipe, spec: DataSpec) -> None:
        super().__init__(recipe, spec)
        config = recipe.model
        if spec.kind != "points":
            raise UserError(
                f"the lion family models clouds of points; {recipe.data.name} is {spec.kind} data"
            )
        if spec.shape[-1] != 3:
            raise UserError("the lion family models points alone, without normals", "data.normals")
        if config.conditional and spec.classes == 0:
            raise UserError(f"model.conditional: the data set {recipe.data.name} has no labels")
        if config.text and not spec.phrases:
            raise UserError(f"model.text: the examples of {recipe.data.name} have no sentences")
        self.classes = spec.classes if config.conditional else 0
        vector = config.vectors.dim if config.vectors else len(spec.phrases) if config.text else 0
        self.points = config.points or spec.shape[0]
        self.model = LionNetworks(config, self.classes, vector)
        self.generation = Generation(self.model.priors, config, self.points)
        self._vectors: Tensor | None = None
        self._warned = False
        if config.guided is not None:
            self.model.requires_grad_(False)
            self.model.autoencoder.style_encoder.requires_grad_(True)
            self.model.autoencoder.encoder.requires_grad_(True)

    def fit_to_data(self, dataset: DataSet) -> None:
        """Takes over the weights of the run to fine-tune, and says what the settings imply."""
        config, steps = self.recipe.model, self.recipe.trainer.max_steps
        if config.guided is not None:
            load_start(self.model, config.guided, self.recipe.family)
        elif steps <= config.vae.steps:
            self.say(
                f"warning: trainer.max_steps is {steps} and model.vae.steps {config.vae.steps}: no step is left for "
                "the priors, and samples of this run will be noise"
            )

    def look_up(self, dataset: DataSet) -> None:
        """Takes the vector or the phrases of each example."""
        config = self.recipe.model
        if config.text:
            self._vectors = bags(dataset.sentences, self.spec.phrases, "model.text")
        elif config.vectors is not None:
            where = "model.vectors.path"
            self._vectors = read_vectors(config.vectors.path, config.vectors.dim, where)
            if (found := len(self._vectors)) != len(dataset):
                raise UserError(
                    f"{config.vectors.path} holds {found} rows; expected {len(dataset)}, one for each training example",
                    where,
                )

    @property
    def stage(self) -> Stage:
        """What the next step trains."""
        if self.recipe.model.guided is not None:
            return "encoders"
        return "vae" if self.step < self.recipe.model.vae.steps else "priors"

    # One training step

    def examples(self, batch: Batch) -> Examples:
        return self.stage_examples(batch, self.stage)

    def stage_examples(self, batch: Batch, stage: Stage) -> Examples:
        """Clouds (B, 3, N) and the draws of one stage's loss."""
        config = self.recipe.model
        x = self.chosen_points(to_model(batch.x)).mT.contiguous()
        count, shape = len(x), (3 + config.features, self.points)
        found: Examples = {
            "x": x,
            "style_noise": self._normal(count, config.style),
            "point_noise": self._normal(count, *shape),
        }
        if stage == "priors":
            levels = self.model.priors.process.levels
            u = self.global_draw(count, lambda n: torch.rand(n, generator=self.rng, device=self.device))
            found["level"] = (u * levels).long().clamp(max=levels - 1)
            found["style_eps"], found["point_eps"] = (
                self._normal(count, config.style),
                self._normal(count, *shape),
            )
            if (condition := self.condition(batch)) is not None:
                found["condition"] = condition
            return found
        weight = config.vae.kl_max if stage == "encoders" else kl_weight(self.step, config)
        found["kl_weight"] = x.new_full((count,), weight)
        if config.guided is not None:
            found["input"] = degrade(x, config.guided.input, self.rng)
        return found

    def _normal(self, count: int, *shape: int) -> Tensor:
        return self.global_draw(
            count, lambda n: torch.randn(n, *shape, generator=self.rng, device=self.device)
        )

    def chosen_points(self, x: Tensor) -> Tensor:
        """Clouds (B, P, 3) as a step sees them: all of their points, or `model.points` drawn with replacement."""
        if self.recipe.model.points is None:
            return x
        size, wanted = x.shape[1], self.points
        chosen = self.global_draw(
            len(x), lambda n: torch.randint(size, (n, wanted), generator=self.rng, device=self.device)
        )
        return x.gather(1, chosen.unsqueeze(2).expand(-1, -1, 3))

    def condition(self, batch: Batch) -> Tensor | None:
        """(B, columns) what the priors are told, a share of the rows saying nothing; None for unconditional priors."""
        config = self.recipe.model
        priors = self.model.priors
        if self.classes:
            told = batch.label.unsqueeze(1).float()
        elif not priors.columns:
            return None
        elif self._vectors is None:  # a dry run, which has no examples to look up
            told = torch.zeros(len(batch.x), priors.columns, device=self.device)
        else:
            told = self._vectors[batch.index.cpu()].to(self.device)
        # of a sentence's phrases each may go by itself, and then all of them
        draws = 1 + (priors.columns if config.text else 0)
        u = self.global_draw(
            len(told), lambda n: torch.rand(n, draws, generator=self.rng, device=self.device)
        )
        dropped = u < config.label_dropout
        if config.text:
            told = told.masked_fill(dropped[:, 1:], 0.0)
        return torch.where(dropped[:, :1], priors.nothing(told), told)

    def losses(self, examples: Examples) -> Tensor:
        autoencoder = self.model.autoencoder
        if "level" in examples:
            return prior_losses(autoencoder, self.model.priors, examples)
        return autoencoder_losses(autoencoder, examples, self.recipe.model.guided)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        config = self.recipe.trainer
        if (self.step + 1) % config.log_every == 0 or self.step + 1 == config.max_steps:
            self.watch({key: value[:WATCHED] for key, value in self._examples.items()})
        return loss

    def watch(self, examples: Examples) -> None:
        """Logs how the autoencoder does; warns once where its reconstructions or latents go astray."""
        figures, near = watched(self.model.autoencoder, examples)
        self.log_dict(figures)
        error, spread = figures["reconstruction_cd"], figures["points_std"]
        if self.stage == "vae" and not self._warned and (error > WORSE * near or spread > 1):
            self._warned = True
            self.say(
                f"warning: after step {self.step} reconstructions are {error:.3g} from their clouds (Chamfer; its "
                f"points {near:.2g}), and the latent points' standard deviation is {spread:.2g}: where that is not "
                "wanted, lower model.vae.kl_max"
            )

    def try_step(self, batch: Batch) -> Tensor:
        """A step of every stage there is."""
        self._seed(0)
        stages: tuple[Stage, ...] = ("encoders",) if self.recipe.model.guided else ("vae", "priors")
        total = torch.zeros((), device=self.device)
        for stage in stages:
            loss = self.losses(self.stage_examples(batch, stage)).mean()
            loss.backward()
            total += loss.detach()
        return total

    # Lightning

    def prepare_training(self) -> None:
        """The average follows the priors alone: they are trained on latents of the autoencoder as it is."""
        if self.recipe.ema is not None and self.ema is None:
            self.ema = Ema(self.model.priors, self.recipe.ema)

    def end_step(self, batch_size: int) -> None:
        averaged = self.stage == "priors"
        self.step += 1
        if self.ema is not None and averaged:
            self.ema.update(self.model.priors, self.step - self.recipe.model.vae.steps, batch_size)

    def released_state(self) -> dict[str, Tensor]:
        state = dict(self.model.state_dict())
        if self.ema is not None:
            state |= {f"priors.{name}": value for name, value in self.ema.model_state().items()}
        return state

    def configure_optimizers(self) -> Any:
        """One optimiser with a group a stage: weights that a stage leaves alone have no gradient, and are not moved."""
        config, fused = self.recipe, self.recipe.trainer.precision == "32-true"
        optimizer = build_optimizer(config.vae_optimizer, self.model.autoencoder.parameters(), fused=fused)
        if config.model.guided is None:
            own = config.optimizer
            settings = {"lr": own.lr, "betas": own.betas, "eps": own.eps, "weight_decay": own.weight_decay}
            optimizer.add_param_group({"params": list(self.model.priors.parameters()), **settings})
        return optimizer

    def lr_schedules(self) -> list[LrSchedule]:
        config, whole = self.recipe, self.recipe.trainer.max_steps
        if config.model.guided is not None:
            return [LrSchedule(config.vae_optimizer, whole)]
        return [StagedRate(config.vae_optimizer, config.optimizer, config.model.vae.steps, whole)]

    def compiled_parts(self) -> list[nn.Module]:
        """The global prior: networks of points look for centres in loops, which compile badly."""
        return [self.model.priors.style.network]

    # Sampling

    def draw(self, request: SampleRequest) -> Drawn:
        """The global latent, the latent points given it, and the cloud that they decode to; `nfe` counts the calls of
        both priors."""
        condition = self.sample_condition(request)
        done, each = request.on_step, request.settings.steps
        later = None if done is None else (lambda i, _: done(each + i, 2 * each))
        style = self.generation.style(
            replace(request, on_step=done and (lambda i, _: done(i, 2 * each))), condition
        )
        points = self.generation.points(replace(request, on_step=later), style.x, condition)
        x = self.model.autoencoder.decode(style.x, points.x)
        return Drawn(x.mT.contiguous(), style.nfe + points.nfe, points.manifest)

    def sample_condition(self, request: SampleRequest) -> Tensor | None:
        """(B, columns) conditions of the request's samples: their labels, or the rows of the file or text in turn."""
        rows = asked(self.recipe.model, cast(LionSample, request.settings), self.spec.phrases)
        if rows is not None:
            return rows[[i % len(rows) for i in request.indices]].to(request.device)
        return None if request.labels is None else request.labels.unsqueeze(1).float()

    def sampling_means(self) -> frozenset[str]:
        return drawing.means(self.model.priors.points, self.generation.points_traits)

    def check_request(self, settings: Sample, guide: Guide | None = None) -> list[str]:
        """Refuses what either prior cannot do."""
        if guide is not None:
            raise UserError("--classifier: it reads noisy data, and these states are latents")
        asked(self.recipe.model, cast(LionSample, settings), self.spec.phrases)
        notices: dict[str, None] = {}
        for denoiser, traits in self.generation.parts():
            notices |= dict.fromkeys(drawable.check(settings, denoiser, traits))
        return list(notices)
