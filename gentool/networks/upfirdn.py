"""Up-sampling, FIR filtering and down-sampling of pictures in plain torch, differentiable as often as one likes.

Source: Karras et al. 2020 (StyleGAN2, 1912.04958), appendix B; zeros lie outside the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def fir_kernel(taps: Sequence[float] = (1.0, 3.0, 3.0, 1.0)) -> Tensor:
    """(k, k) outer product of the taps, of sum 1."""
    row = torch.tensor(taps)
    return torch.outer(row, row) / row.sum() ** 2


def upfirdn2d(
    x: Tensor, kernel: Tensor, *, up: int = 1, down: int = 1, padding: tuple[int, int] = (0, 0)
) -> Tensor:
    """Puts up-1 zeros after each pixel, pads, convolves with the kernel and keeps every down-th pixel.

    Args:
        x: (B, C, H, W).
        kernel: (k, k).
        padding: zeros before and after, of both axes; negative ones crop.

    Returns:
        (B, C, H', W') with H' = ceil((H up + sum(padding) - k + 1) / down).
    """
    channels, k = x.shape[1], kernel.shape[-1]
    each = kernel.to(x.dtype).expand(channels, 1, k, k)
    before, after = padding
    if up == 1:
        if before != after or before < 0:
            x, before = F.pad(x, [before, after] * 2), 0
        return F.conv2d(x, each.flip(2, 3), stride=down, padding=before, groups=channels)
    # the transposed convolution is that of the zero-filled picture at every place where they meet at all
    first, last = before - (k - 1), up + after - k
    if first == last <= 0:
        x = F.conv_transpose2d(x, each, stride=up, padding=-first, groups=channels)
    else:
        x = F.pad(F.conv_transpose2d(x, each, stride=up, groups=channels), [first, last] * 2)
    return x[:, :, ::down, ::down]


def up_conv(x: Tensor, weight: Tensor, kernel: Tensor) -> Tensor:
    """(B, I, H, W) -> (B, O, 2H, 2W): twice the resolution, a 3x3 convolution (O, I, 3, 3) and the FIR of sum 1."""
    x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    return upfirdn2d(x, 4 * kernel, padding=(1, 1))


def down_conv(x: Tensor, weight: Tensor, kernel: Tensor) -> Tensor:
    """(B, I, H, W) -> (B, O, H/2, W/2): the FIR of sum 1 and a convolution (O, I, 3, 3) or (O, I, 1, 1)."""
    if weight.shape[-1] == 1:
        return F.conv2d(upfirdn2d(x, kernel, down=2, padding=(1, 1)), weight)
    return F.conv2d(upfirdn2d(x, kernel, padding=(2, 2)), weight, stride=2)
