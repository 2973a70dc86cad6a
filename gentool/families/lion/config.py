"""Recipe of LION: a hierarchical autoencoder of point clouds and a diffusion prior of each of its two latents."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gentool.families.base import Family
from gentool.networks.pvcnn_config import LION_PRIOR, PointEncoder, PointUNet, ResidualMlp, Sampler, Width
from gentool.recipes.schema import Fraction, Misfit, Optimizer, Positive, Recipe, Sample, Strict

NonNegative = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class VaeModel(Strict):
    """The autoencoder: its networks, its loss and how long it is trained."""

    steps: Annotated[int, Field(ge=0)] = 1000
    """Optimiser steps of the first stage, the autoencoder's; the rest of trainer.max_steps is the priors'."""
    encoder: PointUNet = PointUNet()
    """Cloud and global latent to latent points."""
    decoder: PointUNet = PointUNet()
    """Latent points and global latent to the cloud."""
    style_encoder: PointEncoder = PointEncoder()
    """Cloud to global latent."""
    kl_max: NonNegative = 0.5 / 32
    """Weight of the KL divergences at the end of its ramp, against a reconstruction error summed over points. The
    paper's 0.5 with errors summed over a batch of 32."""
    kl_min: NonNegative = 1.0e-7
    """Its weight at the start."""
    ramp: Fraction = 0.5
    """Share of the first stage over which it rises, linearly."""
    skip: PositiveFloat = 0.01
    """What the networks' outputs are scaled by before they are added to their input's coordinates."""
    log_std_offset: float = 6.0
    """Subtracted from the latent points' log standard deviation, so that training starts at the identity."""


class PointPrior(Strict):
    """The diffusion prior of latent points given the global latent."""

    network: PointUNet = LION_PRIOR
    """Predicts the noise in latent points."""
    time: Width = 64
    """Width of the noise level's embedding."""


class Vectors(Strict):
    """Condition the priors on a vector an example, of a text or a picture for instance."""

    path: Annotated[str, Field(min_length=1)]
    """An .npz (arr_0) or .h5 (/samples) file of float32 vectors (N, D): row i belongs to training example i."""
    dim: Positive
    """D."""


class VoxelInput(Strict):
    name: Literal["voxels"] = "voxels"
    """Centres of the voxels that the cloud touches, drawn with replacement."""
    size: PositiveFloat = 0.15
    """Edge of a voxel in the units of the (normalised) coordinates."""


class NoisyInput(Strict):
    name: Literal["noise"] = "noise"
    """Points moved by noise."""
    law: Literal["gaussian", "uniform"] = "gaussian"
    """Of the noise in each coordinate."""
    scale: PositiveFloat = 0.1
    """Its standard deviation, or half its width when it is uniform."""
    outliers: Fraction = 0.0
    """Share of points replaced by ones anywhere in the cloud's box."""


InputConfig = Annotated[VoxelInput | NoisyInput, Field(discriminator="name")]


class Guided(Strict):
    """Fine-tune the encoders of a trained run for degraded input; decoder and priors stay as they are."""

    start: Annotated[str, Field(min_length=1)]
    """Run folder of the trained model, of the same networks."""
    input: InputConfig = VoxelInput()
    """What the encoders see in the place of the clean cloud."""
    emd_weight: NonNegative = 0.02
    """Weight of the earth mover's distance (squared, approximate) beside the Chamfer distance; both times the number of
    points. 0 leaves it out."""


class LionModel(Strict):
    points: Positive | None = None
    """Points drawn from each training example, with replacement, and of a sample; null: all that the data have."""
    style: Width = 128
    """Dimensions of the global latent."""
    features: Positive = 1
    """Features of each latent point beside its coordinates."""
    sampler: Sampler = "farthest"
    """Centres of all point networks: farthest-point sampling, or the first points as they come."""
    vae: VaeModel = VaeModel()
    """The autoencoder."""
    style_prior: ResidualMlp = ResidualMlp()
    """Diffusion prior of the global latent."""
    point_prior: PointPrior = PointPrior()
    """Diffusion prior of the latent points."""
    mixed: bool = False
    """Mixed prediction: the priors learn what differs from a standard normal latent."""
    conditional: bool = False
    """Whether the priors see class labels."""
    vectors: Vectors | None = None
    """Whether the priors see a vector an example."""
    text: bool = False
    """Whether the priors see the phrases of each example's sentence, of data that have such (shapes)."""
    condition: Width = 64
    """Width of the embedding of what the priors see."""
    label_dropout: Fraction = 0.1
    """Share of examples whose label, vector or sentence the priors do not see, so that guidance has an unconditional
    branch. Of a sentence, also the share of phrases that they do not see, so that a part may be asked for."""
    guided: Guided | None = None
    """Train no new model but the encoders of another, for voxels or noisy clouds; null: train from the start."""

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        if self.conditional + (self.vectors is not None) + self.text > 1:
            raise ValueError("conditional, vectors and text exclude each other: the priors see one condition")
        return self


class LionSample(Sample):
    solver: str = "ddim"
    """Solver of both latents by name; see `gentool solvers list`."""
    steps: Positive = 25
    """Steps of the solver's grid, for each latent."""
    grid: str | None = "linspace"
    """Step grid; absent: the solver's own."""
    options: dict[str, Any] = Field(default_factory=lambda: {"eta": 1.0})
    """Options of the solver, checked against its signature."""
    vectors: str | None = None
    """An .npz or .h5 file of the vectors to sample by, taken in turn, for a run with model.vectors."""
    text: str | None = None
    """Sentences to sample by, apart by `;` and taken in turn, for a run with model.text; absent: it is told nothing."""


class LionRecipe(Recipe):
    model: LionModel = LionModel()
    """The autoencoder and the priors."""
    vae_optimizer: Optimizer = Optimizer(name="adam", lr=1.0e-3, betas=(0.9, 0.99), warmup=100)
    """The autoencoder's optimiser; schedule and warm-up are of the first stage."""
    optimizer: Optimizer = Optimizer(name="adam", lr=2.0e-4, betas=(0.9, 0.99), warmup=100)
    """The priors' optimiser; schedule and warm-up are of the second stage."""
    sample: LionSample = LionSample()
    """What `gentool sample RUN` does when nothing is said; solver and steps hold for both latents."""

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        """What two stages in one run cannot do, told before training."""
        if self.privacy is not None:
            raise Misfit(
                "privacy",
                "the private step clips one gradient over all weights, and here two stages train different ones",
            )
        if self.trainer.strategy == "fsdp":
            raise Misfit("trainer.strategy", "the stages' weights rest by turns; use ddp")
        if self.vae_optimizer.name == "sgd" or self.vae_optimizer.name != self.optimizer.name:
            raise Misfit(
                "vae_optimizer.name", "both stages share one rule: adam or adamw, that of `optimizer`"
            )
        if self.sample.vectors is not None and self.model.vectors is None:
            raise Misfit("sample.vectors", "the priors see no vectors: set model.vectors")
        if self.sample.text is not None and not self.model.text:
            raise Misfit("sample.text", "the priors see no sentences: set model.text")
        return self


FAMILY = Family(
    name="lion",
    summary="3-d shapes as point clouds: a hierarchical autoencoder and a diffusion prior of each of its two latents",
    paper="Zeng et al. 2022, LION: Latent Point Diffusion Models for 3D Shape Generation (2210.06978)",
    recipe=LionRecipe,
    module="gentool.families.lion.module:LionModule",
)
