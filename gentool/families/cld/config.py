"""Recipe of critically-damped Langevin diffusion."""

from __future__ import annotations

from gentool.diffusion.langevin.config import LangevinConfig
from gentool.families.base import Family
from gentool.recipes.schema import Positive, Sample
from gentool.training.denoising_config import NetworkModel, NetworkRecipe


class CldModel(LangevinConfig, NetworkModel):
    velocities: Positive = 1
    """Initial velocities drawn for an example's likelihood bound; more are tighter and cost as much each."""


class CldSample(Sample):
    solver: str = "sscs"
    """Solver by name; see `gentool solvers list`."""
    steps: Positive = 50
    """Steps of the solver's grid."""


class CldRecipe(NetworkRecipe):
    model: CldModel
    """The network and the process."""
    sample: CldSample = CldSample()
    """What `gentool sample RUN` does when nothing is said."""


FAMILY = Family(
    name="cld",
    summary="critically-damped Langevin diffusion: data and velocity, noise on the velocity alone",
    paper="Dockhorn, Vahdat and Kreis 2022, Score-Based Generative Modeling with Critically-Damped Langevin "
    "Diffusion (2112.07068)",
    recipe=CldRecipe,
    module="gentool.families.cld.module:CldModule",
    shards=True,
    state_parts=2,
)
