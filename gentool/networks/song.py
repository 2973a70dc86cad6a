"""DDPM++ and NCSN++.

Source: Song et al. 2021 (score SDE), in the form and with the initialisation of Karras et al. 2022 (EDM);
Dockhorn et al. 2023 (DPDM) for the label table.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from gentool.networks.attention import SelfAttention
from gentool.networks.blocks import BlockStyle, ResBlock
from gentool.networks.config import SongUNet
from gentool.networks.embedding import Fourier, Mapping, OneHot, Positional
from gentool.networks.unet import UNet


def song_unet(
    config: SongUNet, in_channels: int, out_channels: int, size: tuple[int, ...], classes: int
) -> UNet:
    """DDPM++ or NCSN++."""
    channels, width = config.channels, 4 * config.channels
    fourier = config.embedding == "fourier"
    noise_width = 2 * channels if fourier else channels
    label: nn.Module | None = None
    if classes and config.label_embedding == "one-hot":
        label = OneHot(classes, noise_width, scale=math.sqrt(classes), bias=True)
    elif classes:
        label = nn.Embedding(classes + 1, noise_width)
    mapping = Mapping(
        Fourier(noise_width) if fourier else Positional(noise_width, endpoint=True),
        noise_width,
        width,
        classes=classes,
        label=label,
        augment=config.augment,
    )
    style = BlockStyle(
        emb=width,
        eps=1e-6,
        scale_shift=False,
        skip_scale=math.sqrt(0.5),
        project_resampled=True,
        dropout=config.dropout,
        resample=config.resample,
    )
    net = UNet(
        mapping,
        style,
        in_channels,
        out_channels,
        size,
        channels=channels,
        mult=config.mult,
        blocks=config.blocks,
        attention=config.attention,
        every=config.decoder_attention == "every",
        residual=config.encoder == "residual",
    )
    initialise_song(net)
    return net


def initialise_song(net: UNet) -> None:
    """DDPM++'s initial weights: xavier uniform, zero biases, and the last layer of each branch times 1e-5."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    module.bias.zero_()
        for module in net.modules():
            if isinstance(module, ResBlock):
                module.conv1.weight *= 1e-5
            elif isinstance(module, SelfAttention):
                module.qkv.weight *= math.sqrt(0.2)
                module.proj.weight *= 1e-5
        net.output.weight *= 1e-5
