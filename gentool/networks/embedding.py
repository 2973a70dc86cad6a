"""Noise level, class label and augmentation label to one embedding vector.

Source: Karras et al. 2022 (EDM), appendix F; Dhariwal and Nichol 2021 (ADM); Peebles and Xie 2023 (DiT). All
are one MLP, with the label added before or after it.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Positional(nn.Module):
    """Sinusoids of c_noise: (B,) -> (B, width), a half of sines and one of cosines of c_noise * 10000^(-i / n).

    Args:
        width: even, at least 4.
        endpoint: n = width/2 - 1, so that the lowest frequency is 1/10000, and sines first (DDPM++); otherwise
            n = width/2 and cosines first (ADM, DiT).
    """

    def __init__(self, width: int, endpoint: bool) -> None:
        super().__init__()
        self.width, self.endpoint = width, endpoint

    def forward(self, c_noise: Tensor) -> Tensor:
        half = self.width // 2
        ramp = torch.arange(half, device=c_noise.device, dtype=c_noise.dtype)
        angle = c_noise[:, None] * torch.exp(ramp * (-math.log(10_000) / (half - self.endpoint)))
        halves = angle.sin(), angle.cos()
        return torch.cat(halves if self.endpoint else halves[::-1], dim=1)


class Fourier(nn.Module):
    """Random Fourier features: (B,) -> (B, width), sin and cos of 2 pi f c_noise, f ~ N(0, 16^2) fixed."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(width // 2) * 16)

    def forward(self, c_noise: Tensor) -> Tensor:
        angle = c_noise[:, None] * (2 * math.pi * self.frequencies.to(c_noise.dtype))
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class OneHot(nn.Module):
    """Linear map of scale * one-hot(label); the null label K is the zero vector."""

    def __init__(self, classes: int, width: int, scale: float = 1.0, bias: bool = False) -> None:
        super().__init__()
        self.classes, self.scale = classes, scale
        self.linear = nn.Linear(classes, width, bias=bias)

    def forward(self, label: Tensor) -> Tensor:
        hot = label[:, None] == torch.arange(self.classes, device=label.device)
        return self.linear(hot.to(self.linear.weight.dtype) * self.scale)


class Mapping(nn.Module):
    """(c_noise, label, augment) -> emb (B, width), the second layer's output without activation.

    The embedding stays in full precision under autocast: noise levels differ by less than bfloat16 resolves.

    Args:
        noise: module (B,) -> (B, noise_width).
        noise_width: width of the noise embedding.
        width: width of the result.
        classes: number of labels, 0 for an unconditional network.
        label: module (B,) int64 -> (B, noise_width), or (B, width) with `label_last`; None when classes is 0.
        label_last: add the label after the MLP (ADM, DiT) instead of before it (DDPM++).
        augment: width of the augmentation label, 0 for none.
    """

    def __init__(
        self,
        noise: nn.Module,
        noise_width: int,
        width: int,
        *,
        classes: int = 0,
        label: nn.Module | None = None,
        label_last: bool = False,
        augment: int = 0,
    ) -> None:
        super().__init__()
        self.noise = noise
        self.classes, self.label_last = classes, label_last
        self.label = label
        self.augment = nn.Linear(augment, noise_width, bias=False) if augment else None
        self.linear0 = nn.Linear(noise_width, width)
        self.linear1 = nn.Linear(width, width)

    def _label(self, c_noise: Tensor, label: Tensor | None) -> Tensor | float:
        if self.label is None:
            if label is not None:
                raise ValueError(
                    "label given to an unconditional network: pass None, or build it with classes"
                )
            return 0.0
        if label is None:
            label = torch.full(c_noise.shape, self.classes, device=c_noise.device)
        return self.label(label)

    def _augment(self, augment: Tensor | None) -> Tensor | float:
        if augment is None:
            return 0.0
        if self.augment is None:
            raise ValueError("augment given to a network built without it: set `augment` in its config")
        return self.augment(augment.to(self.augment.weight.dtype))

    def forward(self, c_noise: Tensor, label: Tensor | None, augment: Tensor | None) -> Tensor:
        with full_precision(c_noise.device):
            emb = self.noise(c_noise).to(self.linear0.weight.dtype) + self._augment(augment)
            label_emb = self._label(c_noise, label)
            if not self.label_last:
                emb = emb + label_emb
            emb = self.linear1(F.silu(self.linear0(emb)))
            return emb + label_emb if self.label_last else emb


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast off, on devices that know autocast (meta does not)."""
    return torch.autocast(device.type, enabled=False) if _knows_autocast(device.type) else nullcontext()


@torch.compiler.assume_constant_result  # Dynamo before PyTorch 2.13 cannot trace the question
def _knows_autocast(device: str) -> bool:
    return bool(torch.amp.is_autocast_available(device))
