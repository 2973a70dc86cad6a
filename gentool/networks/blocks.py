"""The residual block that DDPM++, NCSN++ and ADM share, its normalisation and its resampling filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.networks.attention import SelfAttention, in_transform


class GroupNorm(nn.GroupNorm):
    """Group normalisation with at least four channels a group, at most 32 groups, and statistics in float32.

    Channel counts that min(32, C/4) does not divide get the next smaller number of groups that does. Without
    `affine` there is no scale and shift to learn.
    """

    def __init__(self, channels: int, eps: float, affine: bool = True) -> None:
        most = max(1, min(32, channels // 4))
        groups = next(g for g in range(most, 0, -1) if channels % g == 0)
        super().__init__(groups, channels, eps=eps, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        if in_transform():
            x = (
                x.contiguous()
            )  # the forward derivative views its input, which must lie channels first for that
        weight, bias = (self.weight.to(dtype), self.bias.to(dtype)) if self.affine else (None, None)
        return F.group_norm(x.to(dtype), self.num_groups, weight, bias, self.eps).to(x.dtype)


class BoxDown(nn.Module):
    """Halve the resolution by the mean of 2x2 pixels (the last row or column of an odd side is dropped)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)


class BoxUp(nn.Module):
    """Double the resolution by repeating pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest")


class _Fir(nn.Module):
    """Holds the [1, 3, 3, 1] low-pass filter as a (1, 1, 4, 4) kernel of sum 1."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", (taps[:, None] * taps / 64)[None, None], persistent=False)

    def _of(self, x: Tensor) -> Tensor:
        return self.kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)


class FirDown(_Fir):
    """Halve the resolution with the [1, 3, 3, 1] filter; padding 0 is for inputs a pixel wider all round."""

    def __init__(self, padding: int = 1) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self._of(x), stride=2, padding=self.padding, groups=x.shape[1])


class FirUp(_Fir):
    """Double the resolution with the [1, 3, 3, 1] filter, times 4 as a quarter of its taps meets a pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, 4 * self._of(x), stride=2, padding=1, groups=x.shape[1])


RESAMPLERS: dict[tuple[str, str], type[nn.Module]] = {
    ("box", "down"): BoxDown,
    ("box", "up"): BoxUp,
    ("fir", "down"): FirDown,
    ("fir", "up"): FirUp,
}


@dataclass(frozen=True)
class BlockStyle:
    """What all residual blocks of one network have in common.

    Attributes:
        emb: width of the embedding, 0 for blocks without one.
        eps: of the group norms.
        scale_shift: the embedding scales and shifts after the second norm (ADM), not adds before it (DDPM++).
        skip_scale: factor on every sum with a shortcut.
        project_resampled: put a 1x1 convolution on the shortcut of resampling blocks even if channels agree.
        dropout: before the second convolution.
        resample: filter.
    """

    emb: int
    eps: float
    scale_shift: bool
    skip_scale: float
    project_resampled: bool
    dropout: float
    resample: Literal["box", "fir"] = "box"


class ResBlock(nn.Module):
    """GN-SiLU-(resample)-conv-(embedding)-GN-SiLU-dropout-conv plus shortcut, then attention plus shortcut.

    (B, in_channels, H, W) and the activated embedding (B, style.emb) -> (B, out_channels, H', W').

    Args:
        resample: `"up"`, `"down"` or None.
        heads: attention heads; 0 for a block without attention.

    Source: Song et al. 2021 (BigGAN-type block), Dhariwal and Nichol 2021; the form of Karras et al. 2022.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style: BlockStyle,
        *,
        resample: Literal["up", "down"] | None = None,
        heads: int = 0,
    ) -> None:
        super().__init__()
        self.scale_shift, self.skip_scale = style.scale_shift, style.skip_scale
        self.resample = RESAMPLERS[style.resample, resample]() if resample else nn.Identity()
        self.norm0: nn.Module = GroupNorm(in_channels, style.eps)
        self.conv0 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.embed = nn.Linear(style.emb, out_channels * (1 + style.scale_shift)) if style.emb else None
        self.norm1: nn.Module = GroupNorm(out_channels, style.eps)
        self.dropout = nn.Dropout(style.dropout)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        project = in_channels != out_channels or (resample is not None and style.project_resampled)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if project else nn.Identity()
        self.norm2 = GroupNorm(out_channels, style.eps) if heads else None
        self.attention = SelfAttention(out_channels, heads) if heads else None

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = self.modulated(self.conv0(self.resample(F.silu(self.normalised(x, emb)))), emb)
        h = self.conv1(self.dropout(F.silu(h)))
        h = (self.skip(self.resample(x)) + h) * self.skip_scale
        if self.norm2 is None or self.attention is None:
            return h
        tokens = self.norm2(h).flatten(2).transpose(1, 2)
        out = self.attention(tokens).transpose(1, 2).unflatten(2, h.shape[2:])
        return (h + out) * self.skip_scale

    def normalised(self, x: Tensor, emb: Tensor | None) -> Tensor:
        """The first norm, which the embedding leaves alone."""
        return self.norm0(x)

    def modulated(self, h: Tensor, emb: Tensor | None) -> Tensor:
        """The second norm with the embedding brought in."""
        if self.embed is None:
            return self.norm1(h)
        embedded = self.embed(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = embedded.chunk(2, dim=1)
            return self.norm1(h) * (1 + scale) + shift
        return self.norm1(h + embedded)
