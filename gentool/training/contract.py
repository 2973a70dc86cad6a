"""What a family writes: its loss, its samples, and what may be asked of its model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from gentool.diffusion.solvers.catalog import SOLVERS
from gentool.errors import UserError
from gentool.recipes.schema import Recipe, Sample
from gentool.training.ema import Ema
from gentool.training.findings import Findings
from gentool.training.sharding import gathered

if TYPE_CHECKING:
    from gentool.data import Batch, DataSet, DataSpec
    from gentool.diffusion.likelihood import Likelihood
    from gentool.metrics.classifier import Judge
    from gentool.noise import Noise
    from gentool.training.latent import LatentGenerator
    from gentool.training.sampling import Drawn, Guide, SampleRequest


Examples = dict[str, Tensor]
"""A batch with all its randomness drawn: tensors (B, ...), row i of each belonging to example i alone."""


class Contract(LightningModule):
    """The part of `training.module.GenModule` that a family fills in.

    A family sets `self.model`: the network or networks that sampling needs (EMA follows them, model.safetensors
    holds them), and writes `examples`, `losses` and `draw`. A family with several optimisers overrides
    `configure_optimizers` and `training_step` (Lightning's manual optimisation).

    Attributes:
        draws_samples: whether there are samples to draw and judge; else `evaluate_model` judges the model itself.
        no_samples: what is said, where there are none, to those who ask for some.
        remedies: what to change when the loss or the weights became NaN.
        takes_turns: whether a training step goes back through one of several networks at a time.
        averages_draws: whether `examples` makes `draws` draws of the loss's randomness for each example, which
            `losses` averages (noise multiplicity).
        own_private_step: whether `training_step` is private by a mechanism of its own: it bounds and noises what
            the recipe's `private_step` says, as `private` (then an `OwnStep`) has it.
        classes: class labels the model takes; 0 when it is unconditional.
    """

    draws_samples: ClassVar[bool] = True
    no_samples: ClassVar[str] = "this model draws no samples; judge it by gentool evaluate RUN"
    remedies: ClassVar[str] = "lower optimizer.lr, or set trainer.clip_norm or optimizer.warmup"
    takes_turns: ClassVar[bool] = False
    averages_draws: ClassVar[bool] = False
    own_private_step: ClassVar[bool] = False
    model: nn.Module
    recipe: Recipe
    spec: DataSpec
    classes: int
    ema: Ema | None

    def fit_to_data(self, dataset: Any) -> None:
        """Measures what the model takes from the training data (sigma_data ...); called once, before step 0."""

    def look_up(self, dataset: DataSet) -> None:
        """Takes what steps look up by a batch's index; called whenever training starts, resumed or not."""

    def fit_privately(self) -> None:
        """Stands in for `fit_to_data` in private training, where nothing may be measured: constants alone.

        Raises:
            UserError: the model is measured on data, or its examples' draws depend on each other; says what to set.
        """
        if type(self).fit_to_data is not Contract.fit_to_data:
            raise UserError(
                f"the family {self.recipe.family} measures its data before training, which is not accounted for",
                "privacy",
            )

    def assume_data(self) -> None:
        """Stands in for `fit_to_data` where there are no data to measure (a dry run)."""

    def examples(self, batch: Batch) -> Examples:
        """The batch as `losses` takes it; all randomness of the loss is drawn here, from `self.rng` alone."""
        raise NotImplementedError(f"{type(self).__name__} trains by a step of its own")

    def losses(self, examples: Examples) -> Tensor:
        """(B,) losses whose mean is minimised: a pure function of the weights and, row by row, of the examples.

        So it passes through `torch.func.vmap` and `grad`, and one example's gradient depends on that example alone.
        """
        raise NotImplementedError(f"{type(self).__name__} trains by a step of its own")

    def batch_loss(self, examples: Examples) -> Tensor:
        """What a step minimises, 0-d: the mean of `losses`.

        A family whose loss compares the batch's examples overrides it in the place of `losses`.
        """
        return self.losses(examples).mean()

    @property
    def in_parts(self) -> bool:
        """Whether a batch's gradient is the sum of its parts', so that it may be worked off part by part."""
        return type(self).losses is not Contract.losses

    def draw(self, request: SampleRequest) -> Drawn:
        """Samples in model space for the indices of the request; a pure function of it and the weights."""
        self._refuse_samples()

    def check_request(self, settings: Sample, guide: Guide | None = None) -> list[str]:
        """Refuses, before any work is done, what this model cannot sample (`UserError` says why); returns notices.

        `guide` is the classifier that the request will bring.
        """
        self._refuse_samples()

    def _refuse_samples(self) -> NoReturn:
        if self.draws_samples:
            raise NotImplementedError(f"{type(self).__name__} says nothing of how its samples are drawn")
        raise UserError(self.no_samples)

    def sampling_means(self) -> frozenset[str]:
        """What solvers may ask of this model (`SolverInfo.lacking`): the kind of its states, and the needs it meets.

        None for a family that draws in a way of its own.
        """
        return frozenset()

    def usable_solvers(self) -> dict[str, str | None]:
        """Each solver of the catalogue: None where this model can be sampled with it, else the reason why not."""
        if not self.draws_samples:
            return dict.fromkeys(SOLVERS, self.no_samples)
        means = self.sampling_means()
        return {name: SOLVERS.get(name).lacking(means) for name in SOLVERS}

    def solver_name(self, settings: Sample) -> str:
        """What draws the samples, as results and file names tell it."""
        return settings.solver

    def guide(self) -> Guide:
        """This model as the classifier of classifier guidance.

        Raises:
            UserError: it is none, or not one of noisy states.
        """
        raise UserError(f"--classifier: a run of the family {self.recipe.family} is no classifier")

    def latent_generator(self, truncation: float = 1.0) -> LatentGenerator:
        """This model as a function of one standard normal latent, for those who lead or read it.

        Args:
            truncation: of the latents around their mean, where the model has such; 1 is none.

        Raises:
            UserError: it is none, or has no truncation.
        """
        raise UserError(f"a run of the family {self.recipe.family} is no generator of one Gaussian latent")

    def judge(self) -> Judge:
        """This model as the classifier by which samples are judged, on the module's device.

        Raises:
            UserError: it is none.
        """
        raise UserError(f"--classifier: a run of the family {self.recipe.family} is no classifier")

    def evaluate_model(
        self, held_out: DataSet, *, seed: int = 0, report: Callable[[int, int], None] | None = None
    ) -> dict[str, float]:
        """Figures of the model itself on data it was not trained on, for families that draw no samples.

        Args:
            seed: fixes whatever is random about the figures.
            report: called with (examples done, examples in all).
        """
        raise NotImplementedError(f"{type(self).__name__} is judged by its samples")

    def study_model(self, held_out: DataSet, *, seed: int = 0) -> Findings:
        """What else there is to tell and show of a model that `evaluate_model` judges: timings, tables, pictures."""
        return Findings()

    def log_likelihood(self, x: Tensor, noise: Noise, label: Tensor | None = None) -> Likelihood:
        """log density of data x (B, ...) in model space; noise has the shape of a sample.

        Raises:
            UserError: this family has none.
        """
        raise UserError(f"the family {self.recipe.family} has no likelihood")

    def released_state(self) -> dict[str, Tensor]:
        """What model.safetensors holds: the state of `model`, its weights averaged where there is an average.

        Every rank calls it; of a sharded model rank 0 alone gets it (`sharding.gathered`).
        """
        return gathered(self.model.state_dict()) if self.ema is None else self.ema.model_state()

    def compiled_parts(self) -> list[nn.Module]:
        """The modules that `trainer.compile` compiles: networks, never the arithmetic around them.

        `trainer.strategy: fsdp` shards them, in a family with `Family.shards`: there they have all trained weights,
        and a training step reaches these by calling the networks alone.
        """
        return []
