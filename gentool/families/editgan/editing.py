"""Inversion of pictures, edits by optimisation, and refinement of vectors, in W+ (Ling et al. 2021, 2111.03186).

Every picture of a batch goes its own way: losses are summed over the batch, and Adam is elementwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from gentool.families.editgan.descent import Found, Report, descend, ramp
from gentool.families.editgan.losses import (
    DILATIONS,
    Likeness,
    Maps,
    noise_correlation,
    region_cross_entropy,
    region_of,
)

Start = Literal["encoder", "mean"]
SHAKE, SHAKEN = 0.05, 0.75
"""Of a projection: by how much each value of a code is shaken at first, as a share of samples' distance from the mean,
and the share of the steps over which that fades."""


class Model(Protocol):
    """What edits ask of a trained run (`view.View`); all differentiable."""

    def render(self, ws: Tensor) -> Tensor:
        """W+ (B, styles, width) -> pictures (B, C, H, W) in [-1, 1]."""

    def render_labelled(self, ws: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and the heads' mean logits (B, K, H, W)."""

    def render_region(self, ws: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        """The same, with the logits (P, K) of the pixels of a region (B, H, W) bool alone."""

    def encode(self, x: Tensor) -> Tensor:
        """Pictures -> W+."""

    def mean_codes(self, count: int) -> Tensor:
        """W+ of the mean picture."""

    def spread(self) -> float:
        """Root mean square distance of samples' w from their mean."""

    def own_planes(self, count: int) -> list[Tensor]:
        """The noise of each layer, (B, 1, r, r)."""

    def with_planes(self, planes: Sequence[Tensor]) -> Self:
        """The same with other noise."""


@dataclass(frozen=True)
class Weights:
    """Of the terms; the published values, but for the labels'.

    That was 1, beside LPIPS: our distance without learnt weights is larger, and at 1 held three holes in four open that
    were to be filled (MNIST).

    Attributes:
        outside: of the likeness outside the region, with `perceptual` and `pixel` inside it.
        labels: of the cross-entropy in the region.
        latent: of the squared distance to where the encoder sees the picture.
    """

    outside: float = 15.0
    perceptual: float = 10.0
    pixel: float = 5.0
    labels: float = 10.0
    latent: float = 1.0


def invert(
    model: Model,
    x: Tensor,
    maps: Maps | None,
    *,
    start: Start = "encoder",
    noise: float | None = None,
    steps: int = 100,
    rate: float = 0.1,
    weights: Weights | None = None,
    report: Report = lambda done, total: None,
) -> Found:
    """Codes of pictures x (B, C, H, W), led on by likeness from where they start; judged by likeness alone.

    From the mean it is the projection of Karras et al. 2020 (1912.04958, appendix D), layer by layer: until three
    quarters of the steps are done codes are shaken, so as not to stay at the nearest hollow, and the encoder,
    which is not trusted then, has no say.

    Args:
        start: the encoder's codes, or the mean.
        noise: weight of `noise_correlation`: the layers' noise is optimised too, and is (B, 1, r, r) a layer in the
            values after the codes; None: it stays the generator's own.
    """
    weights = weights or Weights(pixel=1.0)
    alike = Likeness(maps, x, weights.perceptual, weights.pixel)
    draws = torch.Generator().manual_seed(0)
    spread = model.spread() if start == "mean" else 0.0

    def loss(values: Sequence[Tensor], t: float) -> tuple[Tensor, Tensor]:
        ws, *planes = values
        shaken = start == "mean" and t < SHAKEN
        if shaken:
            size = SHAKE * spread * (1 - t / SHAKEN) ** 2
            ws = ws + size * torch.randn(ws.shape, generator=draws).to(ws)
        seen = model.with_planes(planes) if planes else model
        made = seen.render(ws)
        judged = total = alike(made)
        if start == "encoder":
            total = total + weights.latent * encoder_distance(seen, ws, made)
        if noise is not None:
            total = total + noise * noise_correlation(planes)
        # a shaken code was not evaluated as it stands
        return total, torch.full_like(judged, torch.inf) if shaken else judged

    with torch.no_grad():
        codes = model.encode(x) if start == "encoder" else model.mean_codes(len(x))
    planes = [] if noise is None else model.own_planes(len(x))
    return descend([codes, *planes], loss, steps, lambda t: rate * ramp(t), report, normalise_planes)


def normalise_planes(values: Sequence[Tensor]) -> None:
    """Brings each plane after the codes back to mean 0 and variance 1, in place."""
    for plane in values[1:]:
        plane.sub_(plane.mean((1, 2, 3), keepdim=True))
        plane.div_(plane.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-8))


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
    steps: int = 100,
    rate: float = 0.02,
    weights: Weights | None = None,
    layers: Sequence[int] | None = None,
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
        layers: whose codes may change; None: all.
    """
    weights, start = weights or Weights(), ws if start is None else start
    held = [i for i in range(ws.shape[1]) if layers is not None and i not in layers]
    with torch.no_grad():
        before = model.render(ws)

    alike = Likeness(maps, before, weights.perceptual, weights.pixel, ~region)

    def loss(values: Sequence[Tensor], t: float) -> tuple[Tensor, Tensor]:
        made, logits = model.render_region(now := values[0], region)
        total = weights.outside * alike(made) + weights.labels * region_cross_entropy(logits, wanted, region)
        if weights.latent > 0:
            total = total + weights.latent * encoder_distance(model, now, made)
        return total, total

    def stay(values: Sequence[Tensor]) -> None:
        values[0][:, held] = start[:, held]

    return descend([start], loss, steps, lambda t: rate, report, stay)


def apply_vector(
    model: Model,
    ws: Tensor,
    delta: Tensor,
    scale: float,
    classes: Tensor | None,
    maps: Maps | None,
    *,
    refine: int = 0,
    widened: int = DILATIONS,
    layers: Sequence[int] | None = None,
    report: Report = lambda done, total: None,
) -> tuple[Tensor, Tensor, Tensor]:
    """ws + scale delta, refined for so many steps; the label maps that it ought to have, and the region.

    Refinement needs no mask: the labels after the bare vector are what is wanted, and outside the region the picture
    before it is (section 3.3).

    Args:
        classes: (K,) bool edited classes, which span the region; None: the pixels whose label changes do.
        widened: by how many pixels that region is.
        layers: whose codes change; None: all.
    """
    if layers is not None:
        delta = torch.zeros_like(delta).index_copy(
            0, at := torch.tensor(layers, device=delta.device), delta[at]
        )
    moved = ws + scale * delta
    with torch.no_grad():
        before, after = (model.render_labelled(w)[1].argmax(1) for w in (ws, moved))
    edited = None if classes is None else classes.expand(len(ws), -1)
    region = region_of(before, after, edited, widened)
    if refine:
        weights = replace(Weights(), latent=0.0)
        moved = edit(
            model,
            ws,
            after,
            region,
            maps,
            start=moved,
            steps=refine,
            weights=weights,
            layers=layers,
            report=report,
        ).ws
    return moved, after, region
