"""Recipe of a denoiser: any process, preconditioning, loss and network of the shared floor.

A family with a choice of processes of its own subclasses `NetworkModel` and says by `diffusion` which it means.
"""

from __future__ import annotations

from gentool.diffusion.config import DiffusionConfig
from gentool.networks.config import NetworkConfig
from gentool.recipes.schema import Fraction, Recipe, Strict


class NetworkModel(Strict):
    """What a denoiser has in its `model:` block whatever its process: the network and what it is told."""

    network: NetworkConfig
    """The network inside the preconditioning."""
    conditional: bool = False
    """Whether the network sees class labels."""
    label_dropout: Fraction = 0.1
    """Share of examples trained without their label, so that guidance has an unconditional branch."""
    flip: bool = False
    """Mirror half of the training pictures left to right."""
    augment: Fraction = 0.0
    """Probability of each of EDM's non-leaky augmentations, which the network is told of (0: none)."""

    @property
    def diffusion(self) -> DiffusionConfig:
        """Process, preconditioning and loss."""
        raise NotImplementedError(f"{type(self).__name__} says no process")


class NetworkRecipe(Recipe):
    model: NetworkModel
    """The network and what it is trained to do."""


class DenoisingModel(DiffusionConfig, NetworkModel):
    @property
    def diffusion(self) -> DiffusionConfig:
        return self


class DenoisingRecipe(NetworkRecipe):
    model: DenoisingModel
    """The network and the process."""
