"""What every denoising network is from outside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn


class Features(NamedTuple):
    """Output of a network with what heads on top of it read (GENIE's, for one).

    Attributes:
        out: (B, out_channels, H, W), or (B, D) for vectors.
        last: the features before the output normalisation and layer: (B, C, H, W), or (B, width) for an MLP.
        emb: (B, E) embedding of noise level and label after its MLP, before the activation that blocks apply.
    """

    out: Tensor
    last: Tensor
    emb: Tensor


class Network(nn.Module, ABC):
    """A function of a noisy input and its noise level, without state: vmap, jvp and compile pass through."""

    @abstractmethod
    def features(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Features:
        """All of `forward`, and the features it is made from."""

    def forward(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """Output of the network.

        Args:
            x: (B, in_channels, H, W) images, or (B, in_channels * D) vectors.
            c_noise: (B,) noise level in the preconditioning's own scale.
            label: (B,) int64 in 0..K, K the null label; None is the null label for all.
            augment: (B, A) augmentation label; None is all zeros (no augmentation).

        Returns:
            (B, out_channels, H, W), or (B, out_channels * D).

        Raises:
            ValueError: a label or augmentation label for a network built without one.
        """
        return self.features(x, c_noise, label, augment).out
