"""Recipe blocks of the diffusion core: `process`, `precond` and `loss` by name. No torch here.

Most recipes say only `process: {name: vp}`: the preconditioning, the law of noise levels and the weight then
follow (`chosen_precond`, `chosen_times`). Sources: specs/diffusion-core.md 2.1 to 2.3, specs/dpdm.md 2.1.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gentool.recipes.schema import Positive, Strict

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


class _Times(Strict):
    stratified: bool = False
    """Draw noise levels evenly over the global batch: less variance. Not for private training, which needs
    each example's draw to be independent of the others."""


class LogNormalTimes(_Times):
    name: Literal["log-normal"] = "log-normal"
    """ln sigma ~ N(mean, std^2): EDM's; flow matching's skewed times are the same law."""
    mean: float = -1.2
    """Mean of ln sigma."""
    std: PositiveFloat = 1.2
    """Standard deviation of ln sigma."""


class LogitNormalTimes(_Times):
    name: Literal["logit-normal"] = "logit-normal"
    """Flow time t = sigmoid(N(mean, std^2)) (Esser et al. 2024); since sigma = t/(1 - t), log-normal in
    sigma."""
    mean: float = 0.0
    """Mean of logit t."""
    std: PositiveFloat = 1.0
    """Standard deviation of logit t."""


class SplitLogNormalTimes(_Times):
    name: Literal["split-log-normal"] = "split-log-normal"
    """ln sigma from two half normals joined at the mode `mean`."""
    mean: float = -1.2
    """Mode of ln sigma."""
    std_low: PositiveFloat = 1.2
    """Spread below the mode."""
    std_high: PositiveFloat = 1.2
    """Spread above the mode."""


class LogLogisticTimes(_Times):
    name: Literal["log-logistic"] = "log-logistic"
    """ln sigma from a logistic law, within the process's range."""
    mean: float = -1.2
    """Mean of ln sigma."""
    scale: PositiveFloat = 0.66
    """Scale of ln sigma."""


class LogUniformTimes(_Times):
    name: Literal["log-uniform"] = "log-uniform"
    """ln sigma uniform over the process's range (VE)."""


class UniformTimes(_Times):
    name: Literal["uniform-t"] = "uniform-t"
    """t uniform over the process's training range (VP, flow, trig)."""


class DiscreteTimes(_Times):
    name: Literal["discrete"] = "discrete"
    """A level of the ddpm process, uniformly."""


class ModeTimes(_Times):
    name: Literal["mode"] = "mode"
    """Flow time by mode sampling with heavy tails (Esser et al. 2024, eq. 20)."""
    scale: Annotated[float, Field(ge=-1, le=2 / (math.pi - 2))] = 1.29
    """Positive: middle times more often."""


class CosineTimes(_Times):
    name: Literal["cosine"] = "cosine"
    """sigma = scale tan(pi u/2), within the process's range: uniform phase, also SD3's cosmap."""
    scale: PositiveFloat = 1.0
    """Median sigma; 1 for v-prediction, sigma_data in k-diffusion."""


class InterpolatedCosineTimes(_Times):
    name: Literal["cosine-interpolated"] = "cosine-interpolated"
    """Shifted cosine between two noise resolutions, for large images (Hoogeboom et al. 2023)."""
    image_size: Positive = 32
    """Side of the images in pixels."""
    noise_low: Positive = 32
    """Noise resolution at low noise."""
    noise_high: Positive = 32
    """Noise resolution at high noise."""
    scale: PositiveFloat = 1.0
    """Unit of sigma; sigma_data in k-diffusion."""


TimesConfig = Annotated[
    LogNormalTimes
    | LogitNormalTimes
    | SplitLogNormalTimes
    | LogLogisticTimes
    | LogUniformTimes
    | UniformTimes
    | DiscreteTimes
    | ModeTimes
    | CosineTimes
    | InterpolatedCosineTimes,
    Field(discriminator="name"),
]


class NetworkWeight(Strict):
    name: Literal["network"] = "network"
    """1/c_out^2: the plain squared error of what the network predicts (unit target under EDM, eps, v or
    velocity)."""


class X0Weight(Strict):
    name: Literal["x0"] = "x0"
    """1: squared error of x0."""


class EpsWeight(Strict):
    name: Literal["eps"] = "eps"
    """1/sigma^2: squared error of eps, the signal-to-noise ratio."""


class VWeight(Strict):
    name: Literal["v"] = "v"
    """(1 + sigma^2)/sigma^2: squared error of v."""


class FlowWeight(Strict):
    name: Literal["flow"] = "flow"
    """((1 + sigma)/sigma)^2: squared error of the flow velocity."""


class EdmWeight(Strict):
    name: Literal["edm"] = "edm"
    """(sigma^2 + sigma_data^2)/(sigma sigma_data)^2, whatever the preconditioning."""
    sigma_data: PositiveFloat = 0.5
    """The weight's own constant."""


class MinSnrWeight(Strict):
    name: Literal["min-snr"] = "min-snr"
    """min(1/sigma^2, gamma) (Hang et al. 2023)."""
    gamma: PositiveFloat = 5.0
    """Largest weight."""


class SoftMinSnrWeight(Strict):
    name: Literal["soft-min-snr"] = "soft-min-snr"
    """1/(sigma^2 + sigma_data^2): the smooth min-SNR with gamma = 1/sigma_data^2 (Crowson et al. 2024)."""
    sigma_data: PositiveFloat = 0.5
    """Where the weight levels off."""


WeightConfig = Annotated[
    NetworkWeight | X0Weight | EpsWeight | VWeight | FlowWeight | EdmWeight | MinSnrWeight | SoftMinSnrWeight,
    Field(discriminator="name"),
]


class LossConfig(Strict):
    times: TimesConfig | None = None
    """Law of the training noise levels; absent: the process's own."""
    weight: WeightConfig = NetworkWeight()
    """Weight of the squared x0 error at each noise level."""


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
