"""Inversion of pictures, edits by optimisation, and refinement of vectors, in W+ (Ling et al. 2021, 2111.03186).

Every picture of a batch goes its own way: losses are summed over the batch, and Adam is elementwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from gentool.families.editgan.losses import Maps, likeness, region_cross_entropy, region_of

Report = Callable[[int, int], None]
"""Told of (steps done, steps in all)."""


class Model(Protocol):
    """What edits ask of a trained run; all differentiable."""

    def render(self, ws: Tensor) -> Tensor:
        """W+ (B, styles, width) -> pictures (B, C, H, W) in [-1, 1]."""

    def render_labelled(self, ws: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and the heads' mean logits (B, K, H, W)."""

    def encode(self, x: Tensor) -> Tensor:
        """Pictures -> W+."""


@dataclass(frozen=True)
class Weights:
    """Of the terms; the published values.

    Attributes:
        outside: of the likeness outside the region, with `perceptual` and `pixel` inside it.
        labels: of the cross-entropy in the region.
        latent: of the squared distance to where the encoder sees the picture.
    """

    outside: float = 15.0
    perceptual: float = 10.0
    pixel: float = 5.0
    labels: float = 1.0
    latent: float = 1.0


@dataclass(frozen=True)
class Found:
    """W+ (B, styles, width), each picture's best; its loss (B,), and that where it began."""

    ws: Tensor
    loss: Tensor
    first: Tensor


def ramp(t: float) -> float:
    """The published rate over t in [0, 1], as a share of the largest: up over 1/20, down over the last quarter."""
    down = min(1.0, (1 - t) / 0.25)
    return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, t / 0.05)


def descend(
    start: Tensor,
    loss: Callable[[Tensor], tuple[Tensor, Tensor]],
    steps: int,
    rate: Callable[[float], float],
    report: Report = lambda done, total: None,
) -> Found:
    """Adam from `start`, keeping the best codes that were evaluated, the first and the last among them.

    Args:
        loss: codes -> (B,) what is minimised, and (B,) what the best is judged by.
        rate: of the share of the steps that are done.
    """
    ws = start.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([ws], 1.0)
    best, first = start.detach().clone(), None
    least = torch.full((len(ws),), torch.inf, device=ws.device, dtype=ws.dtype)
    for step in range(steps + 1):
        with torch.enable_grad():
            total, judged = loss(ws)
            if step < steps and total.requires_grad:
                (ws.grad,) = torch.autograd.grad(total.sum(), ws)
        judged = judged.detach().to(ws.dtype)
        first = judged if first is None else first
        better = judged < least
        best[better], least[better] = ws.detach()[better], judged[better]
        if step == steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate(step / steps)
        optimizer.step()
        report(step + 1, steps)
    assert first is not None
    return Found(best, least, first)


def invert(
    model: Model,
    x: Tensor,
    maps: Maps | None,
    *,
    steps: int = 100,
    rate: float = 0.1,
    weights: Weights | None = None,
    report: Report = lambda done, total: None,
) -> Found:
    """Codes of pictures x (B, C, H, W): the encoder's, led on by likeness; judged by likeness alone."""
    weights = weights or Weights(pixel=1.0)

    def loss(ws: Tensor) -> tuple[Tensor, Tensor]:
        made = model.render(ws)
        alike = likeness(maps, made, x, weights.perceptual, weights.pixel)
        return alike + weights.latent * encoder_distance(model, ws, made), alike

    with torch.no_grad():
        start = model.encode(x)
    return descend(start, loss, steps, lambda t: rate * ramp(t), report)


def encoder_distance(model: Model, ws: Tensor, made: Tensor) -> Tensor:
    """(B,) mean squared distance to the codes that the encoder gives the picture, which are held constant."""
    with torch.no_grad():
        seen = model.encode(made)
    return (ws - seen).square().flatten(1).mean(1)


def edit(
    model: Model,
    ws: Tensor,
    wanted: Tensor,
    region: Tensor,
    maps: Maps | None,
    *,
    start: Tensor | None = None,
    steps: int = 60,
    rate: float = 0.02,
    weights: Weights | None = None,
    report: Report = lambda done, total: None,
) -> Found:
    """Codes whose label map is `wanted` within the region, and whose picture is that of `ws` outside it.

    The picture to be like is the generator's own of `ws`, never the photo: what the inversion missed is not for the
    edit to make up.

    Args:
        ws: (B, styles, width).
        wanted: (B, H, W) int64 label maps.
        region: (B, H, W) bool.
        start: codes to start from; None: `ws`.
    """
    weights = weights or Weights()
    with torch.no_grad():
        before = model.render(ws)

    def loss(now: Tensor) -> tuple[Tensor, Tensor]:
        made, logits = model.render_labelled(now)
        alike = likeness(maps, made, before, weights.perceptual, weights.pixel, ~region)
        total = weights.outside * alike + weights.labels * region_cross_entropy(logits, wanted, region)
        if weights.latent > 0:
            total = total + weights.latent * encoder_distance(model, now, made)
        return total, total

    return descend(ws if start is None else start, loss, steps, lambda t: rate, report)


def apply_vector(
    model: Model,
    ws: Tensor,
    delta: Tensor,
    scale: float,
    classes: Tensor | None,
    maps: Maps | None,
    *,
    refine: int = 0,
    report: Report = lambda done, total: None,
) -> tuple[Tensor, Tensor, Tensor]:
    """ws + scale delta, refined for so many steps; the label maps that it ought to have, and the region.

    Refinement needs no mask: the labels after the bare vector are what is wanted, and outside the region the picture
    before it is (section 3.3).

    Args:
        classes: (K,) bool edited classes, which span the region; None: the pixels whose label changes do.
    """
    moved = ws + scale * delta
    with torch.no_grad():
        before, after = (model.render_labelled(w)[1].argmax(1) for w in (ws, moved))
    region = region_of(before, after, None if classes is None else classes.expand(len(ws), -1))
    if refine:
        weights = replace(Weights(), latent=0.0)
        moved = edit(
            model, ws, after, region, maps, start=moved, steps=refine, weights=weights, report=report
        ).ws
    return moved, after, region
