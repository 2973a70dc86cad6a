"""Samples from a denoiser: what every diffusion family's `draw` comes down to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gentool.diffusion.denoiser import Denoiser
from gentool.diffusion.grids import Grid, make_grid
from gentool.diffusion.guidance import build as guidance
from gentool.diffusion.guidance import catalog as rules
from gentool.diffusion.guidance.classifier import StepGain
from gentool.diffusion.guidance.compose import Null
from gentool.diffusion.predictor import Derive, Guidance, Predictor
from gentool.diffusion.process import Process
from gentool.diffusion.solvers.catalog import SOLVERS
from gentool.diffusion.solvers.core import build as build_solver
from gentool.diffusion.solvers.integrate import integrate
from gentool.diffusion.solvers.stochastic import Ancestral, mean_gains
from gentool.diffusion.solvers.time_shift import TimeShift
from gentool.errors import UserError
from gentool.networks.attention import attention_layers, perturb
from gentool.recipes.schema import Sample
from gentool.training.sampling import Drawn, Guide, SampleRequest


@dataclass(frozen=True)
class Traits:
    """What sampling must know of a model beside its denoiser.

    Attributes:
        shape: of one sample.
        classes: 0 for an unconditional model; the null label otherwise.
        label_dropout: the share of labels dropped in training.
        images: whether x0 lives in [-1, 1] pixels, so that thresholding makes sense.
        derive: the denoiser with a head that predicts the derivative of eps, where there is one.
        null: makes conditions (B, ...) say nothing, where the request's labels are such and not class labels.
        told: the denoiser is told the request's labels although it has no classes: they are conditions.
    """

    shape: tuple[int, ...]
    classes: int
    label_dropout: float
    images: bool
    derive: Derive | None = None
    null: Callable[[Tensor], Tensor] | None = None
    told: bool = False

    @property
    def unlabelled(self) -> Null | None:
        """What guidance tells the model in the place of a label; None where it has no labels."""
        return self.null or self.classes or None


def means(denoiser: Denoiser, traits: Traits) -> frozenset[str]:
    """What solvers may ask of one denoiser (`SolverInfo.lacking`)."""
    if denoiser.process.state_parts > 1:
        return frozenset({"velocity", "time", "adaptive"})
    found = {"data", "time", "adaptive"}
    if denoiser.precond.continuous:
        found.add("derivative")
    if traits.derive is not None:
        found.add("head")
    if denoiser.variances:
        found.add("variance")
    return frozenset(found)


def build_guidance(
    settings: Sample, grid: Grid, denoiser: Denoiser, traits: Traits, guide: Guide | None
) -> Guidance | None:
    if not settings.guidance:  # nothing to check the model for: walking its modules would cost every batch
        return None
    return guidance.build(
        rules.check(settings.guidance),
        null_label=traits.unlabelled,
        label_dropout=traits.label_dropout,
        has_attention=bool(attention_layers(denoiser.network)),
        log_prob=None if guide is None else guide.log_prob,
        mean_gain=mean_gain(settings, grid, denoiser.process),
    )


def mean_gain(settings: Sample, grid: Grid, process: Process) -> StepGain | None:
    """What shifts the means of the solver's steps along a classifier's gradient; None where they have no noise."""
    solver = build_solver(settings.solver, settings.options, process.state_parts)
    if not isinstance(solver, Ancestral) or not solver.stochastic or settings.time_shift is not None:
        return None
    return StepGain(grid.sigma[:-1], mean_gains(solver, grid, process))


def build_grid(settings: Sample, process: Process) -> Grid:
    """The grid asked for, or the solver's own.

    Raises:
        UserError: as `make_grid`, with the recipe's keys.
    """
    name = settings.grid or SOLVERS.get(settings.solver).grid
    try:
        return make_grid(name, settings.steps, process, **settings.grid_options)
    except UserError as error:
        where = error.where or ""
        if not where.startswith("grid."):
            raise
        raise UserError(error.message, "sample.grid_options" + where.removeprefix("grid")) from None


def draw(
    denoiser: Denoiser, request: SampleRequest, traits: Traits, *, prior_factors: Tensor | None = None
) -> Drawn:
    """Integrates from the prior to data with the solver, grid and guidance asked for.

    The prior is Gaussian, times `prior_factors` (B,) where they are given (a noise law with a radius of its own).
    The state and the levels are float64 where the device has it, the network's input float32.
    """
    settings, process, on_step = request.settings, denoiser.process, request.on_step
    dtype = torch.float32 if request.device.type == "mps" else torch.float64

    def denoise(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        # the labels of an unconditional model are for its guide alone
        return denoiser(x, sigma, label if traits.classes or traits.told else None)

    def derive(x: Tensor, sigma: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        assert traits.derive is not None
        return traits.derive(x, sigma, label if traits.classes else None)

    def spread(x: Tensor, sigma: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        return denoiser.with_variance(x, sigma, label if traits.classes else None)

    def perturbed(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        layers = settings.guidance.get("pag", {}).get("layers") or tuple(attention_layers(denoiser.network))
        with perturb(denoiser.network, layers):
            return denoise(x, sigma, label)

    grid = build_grid(settings, process)
    predict = Predictor(
        denoise,
        derive=derive if traits.derive is not None else None,
        spread=spread if denoiser.variances else None,
        variants={"perturbed": perturbed},
        sigma_min=denoiser.sigma_min,
        sigma_max=denoiser.sigma_max,
        label=request.labels,
        guidance=build_guidance(settings, grid, denoiser, traits, request.guide),
        threshold=settings.threshold,
    )
    noise = request.noise(process.state_shape(traits.shape), dtype)
    normal = noise.normal("prior") if request.start is None else request.start.to(request.device, dtype)
    prior = normal * process.prior_scale(float(grid.sigma[0]))
    if prior_factors is not None:
        prior = prior * prior_factors.to(prior).view(-1, *[1] * (prior.dim() - 1))
    if prior.dim() == 4:  # layouts of pictures: a state with a velocity has a dimension more
        prior = prior.to(memory_format=memory_format(denoiser.network))
    result = integrate(
        predict,
        process,
        build_solver(settings.solver, settings.options, process.state_parts),
        grid,
        prior,
        noise,
        first="afs" if settings.afs else None,
        denoise=settings.denoise,
        time_shift=None if settings.time_shift is None else TimeShift(**dict(settings.time_shift)),
        callback=None if on_step is None else lambda i, sigma, x, x0: on_step(i + 1, grid.steps),
        replay=request.replay,
    )
    x = result.x if settings.denoise else process.data_part(result.x)
    return Drawn(x.to(torch.float32), result.nfe, result.manifest)


def memory_format(network: nn.Module) -> torch.memory_format:
    """The layout that keeps a network's convolutions from reordering their input: that of its own weights."""
    # One that only channels_last explains settles it: kernels of one input channel are contiguous either way.
    reordered = (p for p in network.parameters() if p.dim() == 4 and not p.is_contiguous())
    first = next(reordered, None)
    if first is not None and first.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.preserve_format
