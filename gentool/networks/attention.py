"""Self-attention that has every derivative, and its perturbation for perturbed-attention guidance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from gentool.errors import UserError, did_you_mean


def in_transform() -> bool:
    """Whether torch.func transforms or forward-mode AD are at work, which fused kernels do not know."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v, the softmax in at least float32: (..., N, d) -> (..., N, d).

    `bias` broadcasts to (..., N, N); a large negative number takes a key out of every average.

    The fused kernel has no forward-mode derivative and no batching rule, so the plain formula stands in
    under torch.func and forward-mode AD; on the CPU always, where it is as fast and also has a second
    derivative.
    """
    if q.device.type != "cpu" and not in_transform():
        return F.scaled_dot_product_attention(q, k, v, None if bias is None else bias.to(q.dtype))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias
    weight = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return weight.to(v.dtype) @ v


class SelfAttention(nn.Module):
    """Multi-head self-attention of tokens, (B, N, C) -> (B, N, C), without normalisation or residual.

    Attributes:
        identity: take the identity for the attention map: each token keeps its own value (see `perturb`).
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.identity = False
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`bias` is that of `attend`, (B, 1, 1, N) to take keys out."""
        return self.proj(self.mix(self.qkv(x), bias))

    def mix(self, qkv: Tensor, bias: Tensor | None = None) -> Tensor:
        """The heads' averages (B, N, C) of projected tokens (B, N, 3 C), before the output's projection."""
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        out = v if self.identity else attend(q, k, v, bias)
        return out.transpose(1, 2).flatten(2)


def attention_layers(model: nn.Module) -> dict[str, SelfAttention]:
    """Self-attention layers of a model by name, in the model's order."""
    return {
        name.replace("_orig_mod.", ""): module
        for name, module in model.named_modules()
        if isinstance(module, SelfAttention)
    }


@contextmanager
def perturb(model: nn.Module, layers: Sequence[str]) -> Iterator[None]:
    """Within the context, replace the attention map of the chosen layers by the identity.

    Args:
        model: a network, or anything that contains one.
        layers: names of self-attention layers as `attention_layers` gives them, or of modules that contain
            some (`"middle"` in the U-Nets).

    Raises:
        UserError: the model has no self-attention, or a name matches none; the message lists the candidates.

    Source: Ahn et al. 2024 (perturbed-attention guidance), section 4.2.
    """
    known = attention_layers(model)
    if not known:
        raise UserError("perturbed attention needs a network with self-attention; this one has none")
    chosen: list[SelfAttention] = []
    for layer in layers:
        found = [module for name, module in known.items() if name == layer or name.startswith(f"{layer}.")]
        if not found:
            near = did_you_mean(layer, list(known))
            raise UserError(f"no self-attention layer {layer!r}{near} (there are: {', '.join(known)})")
        chosen += found
    before = [module.identity for module in chosen]
    try:
        for module in chosen:
            module.identity = True
        yield
    finally:
        for module, identity in zip(chosen, before):
            module.identity = identity
