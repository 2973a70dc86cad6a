"""Layers whose backward pass also gives the gradients of single records: linear, convolution, norms, embedding.

Each rule stands in for one function of torch. Forward it computes the same; backward it gives the gradient of
the input as usual, and to the tape what each record adds to the weights, before anything is summed over records.

The trick behind convolutions and group norms: a batch of B records is one record of B times as many channels,
in B groups that do not meet. So torch's own kernels for the weights' gradient, called on that view, give every
record's gradient in one pass, as fast as they give the sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gentool.privacy.gradients.engine import NoRuleError, work_dtype
from gentool.privacy.gradients.tape import Rows, Tape, Whole

Names = Callable[[Tensor | None], str | None]
"""The name of a tensor that is a parameter whose gradients are asked for, else None."""

CACHED = 1 << 21
"""Bytes of weight gradients made at once on a CPU: what is larger leaves its caches, and takes several times longer."""


def _autocast(x: Tensor, *weights: Tensor | None) -> tuple[Any, ...]:
    """As autocast would cast the arguments of a product."""
    if not torch.is_autocast_enabled(x.device.type):
        return x, *weights
    dtype = torch.get_autocast_dtype(x.device.type)
    return x.to(dtype), *(None if w is None else w.detach().to(dtype) for w in weights)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, anchor: Tensor, tape: Tape, names: Any
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.tape, ctx.names = tape, names
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        matrix, vector = ctx.names
        if matrix is not None:
            ctx.tape.matrix(matrix, g, x)
        if vector is not None:
            ctx.tape.keep(vector, Whole((_sums(ctx.tape.fold(g, vector)),)))
        return g @ weight if ctx.needs_input_grad[0] else None, None, None, None, None, None


def _sums(g: Tensor) -> Tensor:
    """(B, ..., p) -> (B, p)."""
    return g.flatten(1, -2).to(work_dtype(g)).sum(1)


def linear(tape: Tape, names: Names, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    used = names(weight), names(bias)
    return _Linear.apply(*_autocast(x, weight, bias), weight, tape, used)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        anchor: Tensor,
        tape: Tape,
        names: Any,
        how: Any,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.tape, ctx.names, ctx.how = tape, names, how
        stride, padding, dilation, groups = how
        none = [0] * len(stride)
        return torch.convolution(x, weight, bias, stride, padding, dilation, False, none, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        kernel, vector = ctx.names
        if kernel is not None and _pointwise(weight, ctx.how):  # a linear map of every place
            ctx.tape.matrix(kernel, g.flatten(2).transpose(1, 2), x.flatten(2).transpose(1, 2))
        elif kernel is not None:
            ctx.tape.keep(kernel, Whole(_kernels(ctx.tape, kernel, x, g, weight, ctx.how)))
        if vector is not None:
            spread = ctx.tape.fold(g, vector).flatten(3)
            ctx.tape.keep(vector, Whole((spread.to(work_dtype(g)).sum((1, 3)),)))
        found = None
        if ctx.needs_input_grad[0]:
            found = _backward(g, x, weight, ctx.how, ctx.how[3], (True, False, False))[0]
        return found, None, None, None, None, None, None


def _backward(g: Tensor, x: Tensor, weight: Tensor, how: Any, groups: int, mask: Sequence[bool]) -> Any:
    stride, padding, dilation, _ = how
    none = [0] * len(stride)
    return torch.ops.aten.convolution_backward(
        g, x, weight, None, stride, padding, dilation, False, none, groups, mask
    )


def _pointwise(weight: Tensor, how: Any) -> bool:
    stride, padding, _, groups = how
    return weight[0, 0].numel() == max(stride) == groups == 1 and not any(padding)


def _kernels(tape: Tape, name: str, x: Tensor, g: Tensor, weight: Tensor, how: Any) -> tuple[Tensor, ...]:
    """(b, numel) gradients of a convolution's kernel: records as groups, a record's draws as the batch."""
    x, g = (tape.fold(v, name).transpose(0, 1) for v in (x, g))  # (K, B, C, ...)
    size = weight.numel()
    at_once = tape.records
    if x.device.type == "cpu":
        runs = math.ceil(tape.records * 4 * size / CACHED)
        at_once = math.ceil(tape.records / runs)  # equal runs: a short one costs nearly as much as a full one
    parts = []
    for start in range(0, tape.records, at_once):
        some_x, some_g = (v[:, start : start + at_once] for v in (x, g))
        count = some_x.shape[1]
        kernels = weight[:1].expand(count * len(weight), *weight.shape[1:])  # their shape is all that is used
        found = _backward(
            some_g.flatten(1, 2), some_x.flatten(1, 2), kernels, how, count * how[3], (False, True, False)
        )[1]
        parts.append(found.reshape(count, size).to(work_dtype(found)))
    return tuple(parts)


def convolution(
    tape: Tape,
    names: Names,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    axes = weight.dim() - 2
    if x.dim() != weight.dim() or isinstance(padding, str):
        raise NoRuleError("there is no rule for a convolution without batch, or with its padding in words")
    how = (*([v] * axes if isinstance(v, int) else list(v) for v in (stride, padding, dilation)), groups)
    used = names(weight), names(bias)
    return _Convolution.apply(*_autocast(x, weight, bias), weight, tape, used, how)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, tape: Tape, names: Any
    ) -> Tensor:
        x = x.contiguous()
        rows, channels, places = len(x), x.shape[1], x[0, 0].numel()
        out, mean, rstd = torch.native_group_norm(x, weight, bias, rows, channels, places, groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.groups, ctx.tape, ctx.names = groups, tape, names
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight, mean, rstd = ctx.saved_tensors
        rows, channels, places = len(x), x.shape[1], x[0, 0].numel()
        one = (v.reshape(1, -1, *v.shape[2:]) for v in (g.contiguous(), x))
        found, scale, shift = torch.ops.aten.native_group_norm_backward(
            *one,
            mean.view(1, -1),
            rstd.view(1, -1),
            weight.repeat(rows),
            1,
            rows * channels,
            places,
            rows * ctx.groups,
            (ctx.needs_input_grad[0], True, True),
        )
        for name, values in zip(ctx.names, (scale, shift), strict=True):
            if name is not None:
                ctx.tape.keep(name, Whole((ctx.tape.fold(values.view(rows, channels), name).sum(1),)))
        return None if found is None else found.view_as(x), None, None, None, None, None, None


def group_norm(
    tape: Tape,
    names: Names,
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    if weight is None or bias is None:
        raise NoRuleError("there is no rule for a group norm with a scale alone or a shift alone")
    x = x.to(torch.promote_types(x.dtype, weight.dtype))
    used = names(weight), names(bias)
    return _GroupNorm.apply(x, weight, bias, num_groups, eps, tape, used)


class _Affine(torch.autograd.Function):
    """x weight + bias over the last axes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, tape: Tape, names: Any
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.tape, ctx.names = tape, names
        scaled = x if weight is None else x * weight
        return scaled.clone() if bias is None else scaled + bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        axes = 1 if weight is None else weight.dim()
        for name, values in zip(ctx.names, (lambda: g * x, lambda: g), strict=True):
            if name is not None:
                rows = ctx.tape.fold(values(), name).flatten(-axes)
                ctx.tape.keep(name, Whole((_sums(rows),)))
        return g if weight is None else g * weight, None, None, None, None


def layer_norm(
    tape: Tape,
    names: Names,
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    normal = F.layer_norm(x, normalized_shape, None, None, eps)
    if names(weight) is None and names(bias) is None:
        raise NoRuleError("there is no rule for a layer norm of computed weights")
    return _Affine.apply(normal, weight, bias, tape, (names(weight), names(bias)))


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, index: Tensor, weight: Tensor, padding: int | None, tape: Tape, name: str
    ) -> Tensor:
        ctx.save_for_backward(index)
        ctx.padding, ctx.tape, ctx.name, ctx.size = padding, tape, name, len(weight)
        return F.embedding(index, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        left = ctx.tape.fold(g, ctx.name).flatten(1, -2).to(work_dtype(g))
        index = ctx.tape.fold(index, ctx.name).flatten(1)
        if ctx.padding is not None:
            left = left.masked_fill((index == ctx.padding)[:, :, None], 0)
        ctx.tape.keep(ctx.name, Rows(left, index, ctx.size))
        return None, None, None, None, None


def embedding(
    tape: Tape,
    names: Names,
    index: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    name = names(weight)
    if max_norm is not None or scale_grad_by_freq or name is None:
        raise NoRuleError("there is no rule for an embedding that rescales rows or gradients by the batch")
    if padding_idx is not None and padding_idx < 0:
        padding_idx += len(weight)
    return _Embedding.apply(index, weight, padding_idx, tape, name)


RULES: dict[Any, Callable[..., Tensor]] = {
    F.linear: linear,
    torch.conv1d: convolution,
    torch.conv2d: convolution,
    torch.conv3d: convolution,
    F.group_norm: group_norm,
    F.layer_norm: layer_norm,
    F.embedding: embedding,
}
