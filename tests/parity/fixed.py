"""What the official implementations and ours were both given, and what the official ones made of it.

Weights and inputs are made from integers alone, the same on every machine and in every order of construction.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


def waves(shape: Sequence[int], start: int = 0) -> Tensor:
    """Float64 values in [-1, 1] without a pattern: a chirp, its phase reduced in integers."""
    i = torch.arange(start, start + math.prod(shape))
    phase = (37 * i * i + 11 * i) % 10007
    return (2 * math.pi / 10007 * phase.double()).cos().view(*shape)


@torch.no_grad()
def fill(net: Net) -> Net:
    """The network in float64 and eval mode, every weight a wave of its tensor's shape: matrices of variance 1/fan-in,
    biases and scales a tenth around 0 and 1."""
    net = net.double().eval()
    for module in net.modules():
        for name, p in module.named_parameters(recurse=False):
            wave = waves(p.shape)
            if p.dim() > 1:
                p.copy_(wave * math.sqrt(2 / p[0].numel()))
            else:
                p.copy_(wave / 10 + (isinstance(module, nn.GroupNorm) and name == "weight"))
        if isinstance(frequencies := getattr(module, "frequencies", None), Tensor):
            frequencies.copy_(16 * waves(frequencies.shape))
    return net


def told(x: Tensor, count: int = 6) -> list[float]:
    """A few of its values from all over it, and its norm."""
    flat = x.detach().double().flatten()
    picked = flat[torch.linspace(0, len(flat) - 1, count).round().long()]
    return [*picked.tolist(), flat.norm().item()]


class Given:
    """Stands for `gentool.noise.Noise`: hands out tensors in the order in which they are asked for."""

    seed = 0

    def __init__(self, *tensors: Tensor) -> None:
        self._left = list(tensors)
        self.indices = list(range(len(tensors[0])))

    def normal(self, stream: str, step: int = 0) -> Tensor:
        return self._left.pop(0)

    def increment(self, stream: str, a: float, b: float, depth: int = 12) -> Tensor:
        return self._left.pop(0)


class Formula(nn.Module):
    """A network without weights: `formula(x, c_noise)`, c_noise shaped to multiply x."""

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula

    def forward(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        return self.formula(x, c_noise.view(-1, *[1] * (x.dim() - 1)))


def golden(name: str) -> dict[str, Any]:
    """Figures of the official code of this name, at the commit that golden.json tells."""
    values: dict[str, Any] = json.loads((Path(__file__).parent / "golden.json").read_text())[name]["values"]
    return values


def close(ours: Tensor | Sequence[float], official: Any, rtol: float = 1e-9) -> None:
    """Equal to a share of the largest figure."""
    ours, official = (torch.as_tensor(v, dtype=torch.float64) for v in (ours, official))
    torch.testing.assert_close(ours, official, rtol=0, atol=rtol * official.abs().max().item())
