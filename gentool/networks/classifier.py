"""Image classifiers: judges of samples, targets of purification, guides of samplers, learners of synthetic data."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from gentool.networks.blocks import BlockStyle, GroupNorm, ResBlock
from gentool.networks.config import ResNet
from gentool.networks.embedding import Mapping, Positional


class Classifier(nn.Module, ABC):
    """Penultimate features and logits of images.

    No state and no batch statistics (but for a wrn, unless its norm is group): vmap and single images work.

    Attributes:
        output: the linear layer from features to logits.
        dropout: between features and logits.
        noise_conditioned: whether it takes the noise level too.
    """

    output: nn.Linear
    dropout: nn.Module
    noise_conditioned: bool = False

    @abstractmethod
    def extract(self, x: Tensor, c_noise: Tensor | None) -> Tensor:
        """Features (B, d); `c_noise` is given exactly when the classifier is noise-conditioned."""

    def features(self, x: Tensor, c_noise: Tensor | None = None) -> Tensor:
        """Penultimate features (B, d) of images (B, C, H, W) in [-1, 1].

        Args:
            x: images; for a noise-conditioned classifier in the preconditioning's scale (c_in times state).
            c_noise: (B,) noise level, exactly when the classifier is noise-conditioned.

        Raises:
            ValueError: c_noise missing or not wanted.
        """
        if (c_noise is not None) != self.noise_conditioned:
            raise ValueError(
                "this classifier is noise-conditioned: it needs c_noise"
                if self.noise_conditioned
                else "c_noise given to a classifier of clean images"
            )
        return self.extract(x, c_noise)

    def forward(self, x: Tensor, c_noise: Tensor | None = None) -> Tensor:
        """Logits (B, classes)."""
        return self.output(self.dropout(self.features(x, c_noise)))


class ResNetClassifier(Classifier):
    """conv3x3, residual blocks at each level, global mean, linear; with the defaults 0.3 M parameters.

    Takes images of any size not under 2^(levels-1). With `config.noise_conditioned` the noise level modulates
    every block, so that the classifier reads noisy images (classifier guidance), and clean ones at low noise.

    Args:
        config: sizes.
        shape: (C, H, W) of the images; only the channels matter.
        classes: number of logits.
    """

    def __init__(self, config: ResNet, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels = config.channels
        self.noise_conditioned = config.noise_conditioned
        emb = 4 * channels if config.noise_conditioned else 0
        style = BlockStyle(
            emb=emb,
            eps=1e-5,
            scale_shift=True,
            skip_scale=1.0,
            project_resampled=False,
            dropout=config.dropout,
        )
        self.mapping = Mapping(Positional(channels, endpoint=True), channels, emb) if emb else None
        self.input = nn.Conv2d(shape[0], channels, 3, padding=1)
        self.blocks = nn.ModuleList()
        width = channels
        for level, m in enumerate(config.mult):
            for i in range(config.blocks):
                down = level > 0 and i == 0
                self.blocks.append(ResBlock(width, channels * m, style, resample="down" if down else None))
                width = channels * m
        self.norm = GroupNorm(width, style.eps)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(width, classes)

    def maps(self, x: Tensor) -> list[Tensor]:
        """What every block gives (B, C_i, h_i, w_i) of clean images: features to compare them by, place by place."""
        found, h = [], self.input(x)
        for block in self.blocks:
            h = block(h, None)
            found.append(h)
        return found

    def extract(self, x: Tensor, c_noise: Tensor | None) -> Tensor:
        emb = None if self.mapping is None else F.silu(self.mapping(c_noise, None, None))
        h = self.input(x)
        for block in self.blocks:
            h = block(h, emb)
        return F.silu(self.norm(h)).mean(dim=(2, 3))
