"""Samples from a denoiser: what every diffusion family's `draw` comes down to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gentool.diffusion.denoiser import Denoiser
from gentool.diffusion.grids import make_grid
from gentool.diffusion.guidance import build as guidance
from gentool.diffusion.guidance import catalog as rules
from gentool.diffusion.predictor import Guidance, Predictor
from gentool.diffusion.solvers.catalog import SOLVERS
from gentool.diffusion.solvers.core import build as build_solver
from gentool.diffusion.solvers.integrate import integrate
from gentool.errors import UserError
from gentool.networks.attention import attention_layers, perturb
from gentool.recipes.schema import Sample
from gentool.training.sampling import Drawn, SampleRequest


@dataclass(frozen=True)
class Traits:
    """What sampling must know of a model beside its denoiser.

    Attributes:
        shape: of one sample.
        classes: 0 for an unconditional model; the null label otherwise.
        label_dropout: the share of labels dropped in training.
        images: whether x0 lives in [-1, 1] pixels, so that thresholding makes sense.
    """

    shape: tuple[int, ...]
    classes: int
    label_dropout: float
    images: bool


def build_guidance(spec: Any, denoiser: Denoiser, traits: Traits) -> Guidance | None:
    if not spec:  # nothing to check the model for: walking its modules would cost every batch
        return None
    return guidance.build(
        rules.check(spec),
        null_label=traits.classes or None,
        label_dropout=traits.label_dropout,
        has_attention=bool(attention_layers(denoiser.network)),
    )


def check(settings: Sample, denoiser: Denoiser, traits: Traits) -> list[str]:
    """Refuses what this model cannot do before any work is done; returns what the user should hear.

    Raises:
        UserError: unknown solver, option, grid or rule, or one that the model lacks the means for.
    """
    build_solver(settings.solver, settings.options)
    grid = make_grid(settings.grid or SOLVERS.get(settings.solver).grid, settings.steps, denoiser.process)
    build_guidance(settings.guidance, denoiser, traits)
    if settings.threshold != "none" and not traits.images:
        raise UserError("sample.threshold is for images, whose values lie in [-1, 1]")
    clipped = settings.threshold != "none" or not traits.images
    return [*grid.notes, *rules.notices(rules.check(settings.guidance), clipped=clipped)]


def draw(denoiser: Denoiser, request: SampleRequest, traits: Traits) -> Drawn:
    """Integrates from the prior to data with the solver, grid and guidance asked for.

    The state and the levels are float64 where the device has it, the network's input float32.
    """
    dtype = torch.float32 if request.device.type == "mps" else torch.float64
    rule = build_guidance(request.guidance, denoiser, traits)

    def perturbed(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        layers = request.guidance.get("pag", {}).get("layers") or tuple(attention_layers(denoiser.network))
        with perturb(denoiser.network, layers):
            return denoiser(x, sigma, label)

    predict = Predictor(
        denoiser,
        variants={"perturbed": perturbed},
        sigma_min=denoiser.sigma_min,
        sigma_max=denoiser.sigma_max,
        label=request.labels,
        guidance=rule,
        threshold=request.threshold,
    )
    process = denoiser.process
    grid = make_grid(request.grid or SOLVERS.get(request.solver).grid, request.steps, process)
    noise = request.noise(traits.shape, dtype)
    start = noise.normal("prior") * process.prior_std
    on_step = request.on_step
    result = integrate(
        predict,
        process,
        build_solver(request.solver, request.options),
        grid,
        start,
        noise,
        callback=None if on_step is None else lambda i, sigma, x, x0: on_step(i + 1, grid.steps),
    )
    return Drawn(result.x.to(torch.float32), result.nfe, result.manifest)
