"""Recipe blocks of the diffusion core: `process`, `precond` and `loss` by name. No torch here.

Most recipes say only `process: {name: vp}`: the preconditioning, the law of noise levels and the weight then
follow (`chosen_precond`, `chosen_times`). Sources: EDM, table 1; DPDM (2210.09929).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gentool.diffusion.loss_config import (
    DiscreteTimes,
    LogNormalTimes,
    LogUniformTimes,
    LossConfig,
    TimesConfig,
    UniformTimes,
)
from gentool.recipes.schema import Strict

PositiveFloat = Annotated[float, Field(gt=0)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]


class _SigmaRange(Strict):
    sigma_min: PositiveFloat
    sigma_max: PositiveFloat

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min ({self.sigma_min}) must lie below sigma_max ({self.sigma_max})")
        return self


class EdmProcess(_SigmaRange):
    name: Literal["edm"] = "edm"
    """Noise level as time, no scaling (Karras et al. 2022)."""
    sigma_min: PositiveFloat = 0.002
    """Where sampling ends."""
    sigma_max: PositiveFloat = 80.0
    """Where sampling starts."""


class VeProcess(_SigmaRange):
    name: Literal["ve"] = "ve"
    """Variance exploding (Song et al. 2021), sigma = sqrt(t)."""
    sigma_min: PositiveFloat = 0.02
    """Where sampling ends."""
    sigma_max: PositiveFloat = 100.0
    """Where sampling starts."""


class VpProcess(Strict):
    name: Literal["vp"] = "vp"
    """Variance preserving, beta(t) = beta_min + beta_d t, t in (0, 1] (Song et al. 2021)."""
    beta_min: PositiveFloat = 0.1
    """beta at t = 0."""
    beta_d: PositiveFloat = 19.9
    """Growth of beta over the unit interval."""
    t_min: OpenFraction = 1.0e-3
    """Where sampling ends."""
    train_t_min: OpenFraction = 1.0e-5
    """The smallest time of training and likelihood."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.train_t_min > self.t_min:
            raise ValueError(f"train_t_min ({self.train_t_min}) must not exceed t_min ({self.t_min})")
        return self


class DdpmProcess(Strict):
    name: Literal["ddpm"] = "ddpm"
    """Discrete levels (Ho et al. 2020); between them log alpha is linear in t = (n + 1)/levels."""
    levels: Annotated[int, Field(ge=2)] = 1000
    """Number of noise levels."""
    betas: Literal["linear", "scaled-linear", "cosine"] = "linear"
    """linear; scaled-linear: linear in sqrt(beta) (latent diffusion); cosine: improved DDPM's, beta clipped
    at 0.999."""
    beta_min: OpenFraction = 1.0e-4
    """First beta (linear and scaled-linear)."""
    beta_max: OpenFraction = 0.02
    """Last beta (linear and scaled-linear)."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.beta_min > self.beta_max:
            raise ValueError(f"beta_min ({self.beta_min}) must not exceed beta_max ({self.beta_max})")
        return self


class _LogSnrRange(Strict):
    logsnr_max: float
    logsnr_min: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.logsnr_min >= self.logsnr_max:
            raise ValueError(f"logsnr_min ({self.logsnr_min}) must lie below logsnr_max ({self.logsnr_max})")
        return self


class CosineProcess(_LogSnrRange):
    name: Literal["cosine"] = "cosine"
    """Improved DDPM's cosine in continuous time, offset 0.008 (Nichol and Dhariwal 2021)."""
    logsnr_max: float = 10.2
    """-2 ln sigma where sampling ends."""
    logsnr_min: float = -10.2
    """-2 ln sigma where sampling starts: alpha is 0 at t = 1, which no eps prediction survives."""


class TrigProcess(_LogSnrRange):
    name: Literal["trig"] = "trig"
    """alpha = cos(pi t/2), std = sin(pi t/2) (Salimans and Ho 2022)."""
    logsnr_max: float = 13.0
    """-2 ln sigma where sampling ends."""
    logsnr_min: float = -9.0
    """-2 ln sigma where sampling starts."""


class FlowProcess(Strict):
    name: Literal["flow"] = "flow"
    """Straight path x_t = (1 - t) x0 + t eps (Lipman et al. 2023); noise is at t = 1, the reverse of the
    paper."""
    t_min: OpenFraction = 1.0e-3
    """Where sampling ends."""
    t_max: OpenFraction = 0.999
    """Where sampling starts; sigma is infinite at 1."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.t_min >= self.t_max:
            raise ValueError(f"t_min ({self.t_min}) must lie below t_max ({self.t_max})")
        return self


ProcessConfig = Annotated[
    EdmProcess | VeProcess | VpProcess | DdpmProcess | CosineProcess | TrigProcess | FlowProcess,
    Field(discriminator="name"),
]


class _DataScaled(Strict):
    sigma_data: PositiveFloat | Literal["data"] = "data"
    """Standard deviation of the data: a number, or `data` to measure it on the training set when fitting."""


class EdmPrecond(_DataScaled):
    name: Literal["edm"] = "edm"
    """Unit-variance input and target (Karras et al. 2022)."""


class X0Precond(_DataScaled):
    name: Literal["x0"] = "x0"
    """The network predicts x0 itself; poor at small noise."""


class VpPrecond(Strict):
    name: Literal["vp"] = "vp"
    """The network predicts eps and is told the process's time in steps (999 t, or the level of ddpm)."""


class VePrecond(Strict):
    name: Literal["ve"] = "ve"
    """The network predicts -eps from the unscaled input."""


class IddpmPrecond(Strict):
    name: Literal["iddpm"] = "iddpm"
    """Improved DDPM's eps with 1000 discrete levels; the variance half of the output is dropped."""
    levels: Annotated[int, Field(ge=2)] = 1000
    """Number of noise levels the network knows."""


class VPrediction(Strict):
    name: Literal["v"] = "v"
    """The network predicts v = alpha eps - std x0 of the trigonometric process."""
    time_scale: PositiveFloat = 1000.0
    """The network is told time_scale (2/pi) arctan(sigma); DPDM's networks take 1."""


class FlowPrecond(Strict):
    name: Literal["flow"] = "flow"
    """The network predicts the velocity x0 - eps of the straight path."""
    time_scale: PositiveFloat = 1000.0
    """The network is told time_scale / (1 + sigma)."""


PrecondConfig = Annotated[
    EdmPrecond | VpPrecond | VePrecond | IddpmPrecond | VPrediction | FlowPrecond | X0Precond,
    Field(discriminator="name"),
]


class DiffusionConfig(Strict):
    """What a diffusion family's `model:` block has in common; families subclass it and add their network."""

    process: ProcessConfig = EdmProcess()
    """Forward process."""
    precond: PrecondConfig | None = None
    """What the network sees and predicts; absent: the process's own."""
    loss: LossConfig = LossConfig()
    """Training noise levels and weight."""

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if isinstance(self.loss.times, DiscreteTimes) and not isinstance(self.process, DdpmProcess):
            raise ValueError(f"loss.times discrete needs the ddpm process, not {self.process.name}")
        if self.loss.hybrid is None:
            return self
        if not isinstance(self.process, DdpmProcess):
            raise ValueError(
                f"loss.hybrid bounds a chain of levels: the ddpm process, not {self.process.name}"
            )
        if not isinstance(self.chosen_times, DiscreteTimes):
            raise ValueError(f"loss.hybrid needs loss.times discrete, not {self.chosen_times.name}")
        if isinstance(self.chosen_precond, IddpmPrecond):
            raise ValueError(
                "loss.hybrid: precond iddpm throws its variances away; take vp, of the same network"
            )
        return self

    @property
    def chosen_precond(self) -> PrecondConfig:
        """`precond`, or the process's own."""
        return self.precond or _OWN[self.process.name][0]

    @property
    def chosen_times(self) -> TimesConfig:
        """`loss.times`, or the process's own."""
        return self.loss.times or _OWN[self.process.name][1]


_OWN: dict[str, tuple[PrecondConfig, TimesConfig]] = {
    "edm": (EdmPrecond(), LogNormalTimes()),
    "ve": (VePrecond(), LogUniformTimes()),
    "vp": (VpPrecond(), UniformTimes()),
    "ddpm": (VpPrecond(), DiscreteTimes()),
    "cosine": (VPrediction(), UniformTimes()),
    "trig": (VPrediction(), UniformTimes()),
    "flow": (FlowPrecond(), UniformTimes()),
}
