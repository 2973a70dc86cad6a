"""Recipe block `loss`: the law of the training noise levels and the weight. No torch here.

Sources: EDM, table 1; k-diffusion (Crowson et al. 2024, 2401.11605); SD3 (Esser et al. 2024, 2403.03206).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from gentool.recipes.schema import Positive, Strict

PositiveFloat = Annotated[float, Field(gt=0)]


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
    mean: float = -0.6931
    """Mean of ln sigma; ln sigma_data in k-diffusion."""
    scale: PositiveFloat = 0.5
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
    hybrid: PositiveFloat | None = None
    """Learn the variances of ancestral steps too, by the variational bound with this weight (improved DDPM: 0.001); for
    pictures on the ddpm process. The network has twice the outputs; the solver ddpm-learned uses them."""
