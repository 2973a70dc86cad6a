"""Recipe of denoising diffusion GANs."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gentool.families.base import Family
from gentool.networks.gan_config import ConvDiscriminator, DiscriminatorConfig, GeneratorConfig, LatentUNet
from gentool.recipes.schema import Misfit, Optimizer, Positive, Sample, Strict
from gentool.training.adversarial_config import AdversarialRecipe

PositiveFloat = Annotated[float, Field(gt=0)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]

SOLVER = "ddpm"
"""The one solver of these runs: ancestral steps through q(x_k | x_{k+1}, x0), which is what the model learns."""

NO_OTHER_SOLVER = (
    "it needs the mean of x0 at any noise level; this generator draws x0, at the levels of its own steps alone, "
    f"through which {SOLVER} goes"
)


class _Schedule(Strict):
    t_min: OpenFraction = 1.0e-3
    """Time of the data; the levels are evenly spaced from here to 1."""


class VpSchedule(_Schedule):
    name: Literal["vp"] = "vp"
    """Variance preserving: ln abar(t) = -(beta_max - beta_min) t^2/2 - beta_min t."""
    beta_min: PositiveFloat = 0.1
    """beta at t = 0."""
    beta_max: PositiveFloat = 20.0
    """beta at t = 1."""


class GeometricSchedule(_Schedule):
    name: Literal["geometric"] = "geometric"
    """The noise's variance grows geometrically: 1 - abar(t) = var_min (var_max/var_min)^t."""
    var_min: OpenFraction = 0.01
    """Variance at t = 0."""
    var_max: OpenFraction = 0.9999
    """Variance at t = 1."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.var_min >= self.var_max:
            raise ValueError(f"var_min ({self.var_min}) must lie below var_max ({self.var_max})")
        return self


ScheduleConfig = Annotated[VpSchedule | GeometricSchedule, Field(discriminator="name")]


class R1(Strict):
    gamma: Annotated[float, Field(ge=0)] = 0.05
    """Weight: gamma/2 times the squared norm of the discriminator's gradient at real x_k; 0 switches it off."""
    every: Positive = 1
    """Steps from one penalty to the next (lazy regularisation)."""
    scale_by_interval: bool = False
    """Multiply by `every`, as StyleGAN2 does; DDGAN does not, so that its effective gamma is gamma/every."""


class DdganModel(Strict):
    network: GeneratorConfig = LatentUNet()
    """The generator: x0 from x_{k+1} and a latent."""
    discriminator: DiscriminatorConfig = ConvDiscriminator()
    """Its opponent, which sees x_k beside x_{k+1}; not needed for sampling."""
    steps: Positive = 4
    """Denoising steps T: the network calls of a sample."""
    schedule: ScheduleConfig = VpSchedule()
    """Noise levels of the steps."""
    r1: R1 = R1()
    """Gradient penalty of the discriminator."""
    conditional: bool = False
    """Whether both networks see class labels: an extension of the paper."""
    flip: bool = False
    """Mirror half of the training pictures left to right."""


class DdganSample(Sample):
    solver: str = SOLVER
    """Solver by name: no other than that of the default."""
    steps: Positive = 4
    """Steps of the chain: those of the model."""


def unusable(sample: Sample, steps: int) -> tuple[str, str] | None:
    """The first key of a `sample:` block that a chain of so many steps cannot honour, and the reason."""
    if sample.solver != SOLVER:
        return "solver", f"{sample.solver} cannot sample a ddgan run: {NO_OTHER_SOLVER}"
    if sample.steps != steps:
        return (
            "steps",
            f"{sample.steps} steps are not the {steps} of model.steps, and the model knows no others",
        )
    free = {"solver", "steps", "count", "batch_size"}
    for key, value in sample.model_dump(exclude=free, exclude_defaults=True).items():
        return key, f"the chain of this model is fixed and would ignore {value!r}"
    return None


class DdganRecipe(AdversarialRecipe):
    model: DdganModel = DdganModel()
    """The two networks and the chain."""
    optimizer: Optimizer = Optimizer(
        name="adam", lr=1.6e-4, betas=(0.5, 0.9), schedule="cosine", final=0.0625
    )
    """The generator's optimiser."""
    discriminator_optimizer: Optimizer = Optimizer(
        name="adam", lr=1.25e-4, betas=(0.5, 0.9), schedule="cosine", final=0.08
    )
    """The discriminator's optimiser."""
    sample: DdganSample = DdganSample()
    """What `gentool sample RUN` does when nothing is said; solver and steps are those of the model."""

    @model_validator(mode="after")
    def _samples_its_own_way(self) -> Self:
        if (fault := unusable(self.sample, self.model.steps)) is not None:
            raise Misfit(f"sample.{fault[0]}", fault[1])
        return self


FAMILY = Family(
    name="ddgan",
    summary="denoising diffusion GANs: few large steps, each drawn by a conditional GAN with a latent",
    paper="Xiao, Kreis and Vahdat 2022, Tackling the Generative Learning Trilemma with Denoising Diffusion GANs "
    "(2112.07804)",
    recipe=DdganRecipe,
    module="gentool.families.ddgan.module:DdganModule",
)
