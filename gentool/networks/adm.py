"""The ADM U-Net.

Source: Dhariwal and Nichol 2021, in the form and with the initialisation of Karras et al. 2022 (EDM).
"""

from __future__ import annotations

from torch import nn

from gentool.networks.attention import SelfAttention
from gentool.networks.blocks import BlockStyle, ResBlock
from gentool.networks.config import AdmUNet
from gentool.networks.embedding import Mapping, OneHot, Positional
from gentool.networks.unet import UNet


def adm_unet(
    config: AdmUNet, in_channels: int, out_channels: int, size: tuple[int, ...], classes: int
) -> UNet:
    """ADM: torch's own initialisation (U(-1, 1)/sqrt(fan_in)), zero in the last layers of branches."""
    channels, width = config.channels, 4 * config.channels
    mapping = Mapping(
        Positional(channels, endpoint=False),
        channels,
        width,
        classes=classes,
        label=OneHot(classes, width) if classes else None,
        label_last=True,
        augment=config.augment,
    )
    style = BlockStyle(
        emb=width, eps=1e-5, scale_shift=True, skip_scale=1.0, project_resampled=False, dropout=config.dropout
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
        head_channels=config.head_channels,
        every=True,
        stem=channels * config.mult[0],
    )
    if isinstance(mapping.label, OneHot):
        nn.init.normal_(mapping.label.linear.weight)
    if mapping.augment is not None:
        nn.init.zeros_(mapping.augment.weight)
    for module in net.modules():
        if isinstance(module, ResBlock):
            _zero(module.conv1)
        elif isinstance(module, SelfAttention):
            _zero(module.proj)
    _zero(net.output)
    return net


def _zero(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
