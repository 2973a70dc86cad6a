"""A small network on top of a denoising network's features: what GENIE distils its derivative into.

Source: Dockhorn, Vahdat and Kreis 2022 (GENIE, arXiv 2210.05475), appendix; the residual block is DDPM++'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.networks.base import Features
from gentool.networks.blocks import BlockStyle, GroupNorm, ResBlock
from gentool.networks.config import Head as HeadConfig
from gentool.networks.embedding import Mapping, Positional
from gentool.networks.mlp import FilmBlock

SMALL = 1e-5
"""Factor on the initial weights of the layers that start a branch: the released code's variance scale 1e-10."""


class Head(nn.Module, ABC):
    """`head(x, eps, c_noise, features) -> (B, out_channels, ...)`; zero until it is trained.

    The head's output layer starts at exactly zero, where the released code has weights of 1e-5: an untrained head
    then leaves a sampler as it is without one.

    Args:
        width: channels inside.
        features: widths (last, emb) of the features that it reads; None to read none of them, and to embed the noise
            level itself.
    """

    def __init__(self, width: int, features: tuple[int, int] | None) -> None:
        super().__init__()
        self.reads = features is not None
        self.mapping = None if self.reads else Mapping(Positional(width, endpoint=True), width, 4 * width)
        self.last, self.emb = features or (0, 4 * width)

    def forward(self, x: Tensor, eps: Tensor, c_noise: Tensor, features: Features | None) -> Tensor:
        """x, eps (B, C, H, W) or (B, D), c_noise (B,), and the features of the call that predicted eps, where it
        reads them."""
        if self.mapping is not None:
            return self.body(x, eps, None, F.silu(self.mapping(c_noise, None, None)))
        if features is None:
            raise ValueError("this head reads the network's features")
        return self.body(x, eps, features.last, F.silu(features.emb))

    @abstractmethod
    def body(self, x: Tensor, eps: Tensor, last: Tensor | None, emb: Tensor) -> Tensor:
        """The output from what is read, `emb` (B, E) being activated."""


class ConvHead(Head):
    """Of images: conv3x3 on x, eps and the last features, residual blocks, GroupNorm, SiLU, conv3x3.

    Features of a coarser grid (a transformer's tokens) are repeated to the image's.
    """

    def __init__(
        self,
        config: HeadConfig,
        channels: int,
        out_channels: int,
        width: int,
        features: tuple[int, int] | None,
    ) -> None:
        super().__init__(width, features)
        self.norm_last = GroupNorm(self.last, 1e-6) if config.normalise and self.last else None
        self.input = nn.Conv2d(2 * channels + self.last, width, 3, padding=1)
        style = BlockStyle(
            emb=self.emb,
            eps=1e-6,
            scale_shift=False,
            skip_scale=0.5**0.5,
            project_resampled=False,
            dropout=0.0,
        )
        self.blocks = nn.ModuleList([ResBlock(width, width, style) for _ in range(config.blocks)])
        self.norm = GroupNorm(width, 1e-6)
        self.output = nn.Conv2d(width, out_channels, 3, padding=1)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.input.weight *= SMALL
        for block in self.blocks:
            block.conv1.weight *= SMALL  # type: ignore[operator, union-attr]
        nn.init.zeros_(self.output.weight)

    def body(self, x: Tensor, eps: Tensor, last: Tensor | None, emb: Tensor) -> Tensor:
        read = [x, eps]
        if last is not None:
            last = last if self.norm_last is None else self.norm_last(last)
            read.append(last if last.shape[2:] == x.shape[2:] else F.interpolate(last, size=x.shape[2:]))
        h = self.input(torch.cat(read, dim=1))
        for block in self.blocks:
            h = block(h, emb)
        return self.output(F.silu(self.norm(h)))


class MlpHead(Head):
    """Of flattened inputs: the same with linear layers and the residual blocks of `FilmMLP`."""

    def __init__(
        self,
        config: HeadConfig,
        shape: tuple[int, ...],
        out_factor: int,
        width: int,
        features: tuple[int, int] | None,
    ) -> None:
        super().__init__(width, features)
        values = torch.Size(shape).numel()
        self.shape = (out_factor * shape[0], *shape[1:])
        self.norm_last = nn.LayerNorm(self.last) if config.normalise and self.last else None
        self.input = nn.Linear(2 * values + self.last, width)
        self.film = nn.Linear(self.emb, width)
        self.blocks = nn.ModuleList([FilmBlock(width, 0.0) for _ in range(config.blocks)])
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, out_factor * values)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def body(self, x: Tensor, eps: Tensor, last: Tensor | None, emb: Tensor) -> Tensor:
        read = [x.flatten(1), eps.flatten(1)]
        if last is not None:
            last = last.flatten(1)
            read.append(last if self.norm_last is None else self.norm_last(last))
        h, emb = self.input(torch.cat(read, dim=1)), F.silu(self.film(emb))
        for block in self.blocks:
            h = block(h, emb)
        return self.output(F.silu(self.norm(h))).unflatten(1, self.shape)


def build_head(
    config: HeadConfig, shape: tuple[int, ...], out_factor: int, features: Features | None
) -> Head:
    """The head of a config for samples of `shape` ((C, H, W) or (D,)), with `out_factor` outputs for each channel.

    Args:
        features: of one call of the network below (only their shapes count); None where it exposes none.

    Raises:
        ValueError: features are asked for, and there are none; or no width is known.
    """
    wanted = config.features == "network"
    if wanted and features is None:
        raise ValueError("the head reads features, and there are none")
    width = config.channels or (features.last.shape[1] if features is not None else None)
    if width is None:
        raise ValueError("a head without a network's features needs `channels`")
    widths = (features.last.shape[1], features.emb.shape[1]) if wanted and features is not None else None
    if len(shape) == 3 and (features is None or features.last.dim() == 4):
        return ConvHead(config, shape[0], out_factor * shape[0], width, widths)
    return MlpHead(config, shape, out_factor, width, widths)
