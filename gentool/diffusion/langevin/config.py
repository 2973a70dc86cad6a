"""Recipe blocks of critically-damped Langevin diffusion: its process, preconditioning and loss. No torch here.

Source: Dockhorn, Vahdat and Kreis 2022 (2112.07068), section 3 and appendix B.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gentool.recipes.schema import Strict

PositiveFloat = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]


class LangevinProcess(Strict):
    """Data and velocity on t in (0, 1]: dx = beta v/M dt, dv = -beta x dt - beta Gamma v/M dt + sqrt(2 Gamma beta) dw,
    with critical damping Gamma = 2 sqrt(M)."""

    m_inv: PositiveFloat = 4.0
    """1/M, the inverse mass of the velocity."""
    beta0: NonNegative = 4.0
    """beta(t) = beta0 + beta1 t, the speed of the diffusion."""
    beta1: NonNegative = 0.0
    """Growth of beta over the unit interval."""
    gamma: NonNegative = 0.04
    """Variance of the initial velocity, as a share of M."""
    numerical_eps: NonNegative = 1.0e-9
    """Variance added to data and velocity alike; it bounds the score's size near t = 0."""
    t_min: OpenFraction = 1.0e-3
    """Where sampling ends."""
    train_t_min: OpenFraction = 1.0e-5
    """The smallest time of training and likelihood."""

    @model_validator(mode="before")
    @classmethod
    def _critical(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in ("Gamma", "damping", "friction"):
                if key in values:
                    raise ValueError(
                        f"{key} cannot be set: damping is critical, Gamma = 2 sqrt(M), and M = 1/m_inv sets both"
                    )
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.beta0 + self.beta1 == 0:
            raise ValueError("beta0 and beta1 are both 0: nothing would diffuse")
        if self.train_t_min > self.t_min:
            raise ValueError(f"train_t_min ({self.train_t_min}) must not exceed t_min ({self.t_min})")
        if self.gamma == 0 and self.numerical_eps == 0:
            raise ValueError(
                "gamma = 0 needs numerical_eps > 0: the score of a velocity at rest is unbounded"
            )
        return self


class VelocityPrecond(Strict):
    """What the network sees and predicts."""

    mixed: bool = True
    """Add the network to the score of normal data, which is exact at t = 1 (the paper's mixed score)."""
    time: Literal["log", "linear"] = "log"
    """The network is told ln t, or t."""


class VelocityLoss(Strict):
    """How the score of the velocity is learned, at t uniform over the training range."""

    objective: Literal["hsm", "dsm"] = "hsm"
    """hsm: hybrid score matching, the initial velocity integrated out; dsm: denoising score matching, it is drawn."""
    weight: Literal["unit", "beta", "likelihood"] = "unit"
    """Of the squared error of the velocity's noise: 1; Gamma beta(t); or that over the noise's variance."""
    stratified: bool = False
    """Draw times evenly over the global batch: less variance. Not for private training, which needs each example's
    draw to be independent of the others."""


class LangevinConfig(Strict):
    """What a model of data and velocity has in its `model:` block, beside its network."""

    process: LangevinProcess = LangevinProcess()
    """Forward process."""
    precond: VelocityPrecond = VelocityPrecond()
    """What the network sees and predicts."""
    loss: VelocityLoss = VelocityLoss()
    """Training objective and weight."""

    @model_validator(mode="after")
    def _hybrid_needs_a_velocity(self) -> Self:
        if self.process.gamma == 0 and self.loss.objective == "hsm":
            raise ValueError(
                "process.gamma = 0 leaves no initial velocity to integrate out: take loss.objective dsm, or gamma > 0"
            )
        return self
