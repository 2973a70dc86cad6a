"""The inverter of a trained run, as the user asks for it: pictures to noise, and back under another condition."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from gentool.diffusion import inversion
from gentool.diffusion.grids import Grid, make_grid
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.process import Process
from gentool.diffusion.solvers.catalog import SOLVERS
from gentool.diffusion.solvers.core import Solver, build
from gentool.errors import UserError
from gentool.families.genie.module import GenieModule
from gentool.noise import Noise
from gentool.recipes.schema import Sample
from gentool.training import drawable, drawing
from gentool.training.denoising import DenoisingModule
from gentool.training.module import GenModule

Method = Literal["ddpm-inversion", "ddim-inversion"]
DDIM = "ddim"
SKIPPED = {"ddpm-inversion": 0.36, "ddim-inversion": 0.0}
"""As published: 36 of 100 steps; DDIM's inversion goes all the way up."""


@dataclass(frozen=True)
class Settings:
    """What to change, and how much to keep.

    Attributes:
        to_label, from_label: by number or name, several with commas in turn; None keeps the source's label, which is
            the input's own where it has one, else the null label.
        scale, from_scale: classifier-free guidance of the edit and of the inversion; 1 is none.
        skip: steps left out at the noisy end: more keeps more of the picture. None: the method's own share.
    """

    to_label: str | None = None
    from_label: str | None = None
    scale: float = 1.0
    from_scale: float = 1.0
    skip: int | None = None


@dataclass(frozen=True)
class Inverter:
    """Both inversions of one model, over one grid.

    Attributes:
        module: the denoiser; of a distilled run its base. traits: of the run itself, its head among them.
        solver: of `ddim-inversion`.
    """

    module: DenoisingModule
    traits: drawing.Traits
    method: Method
    grid: Grid
    solver: Solver
    skip: int
    threshold: Literal["none", "static", "dynamic"]
    scales: tuple[float, float]
    calls: list[float] = field(default_factory=list)

    def __call__(
        self,
        x0: Tensor,
        source: Tensor | None,
        target: Tensor | None,
        noise: Noise,
        *,
        unchanged: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Pictures x0 (B, ...) float64 under the target's labels, and, if asked for, under the source's again."""
        process = self.module.model.process
        before, after = self._predict(source, self.scales[0]), self._predict(target, self.scales[1])
        again = self._predict(source, self.scales[0])
        if self.method == "ddpm-inversion":
            maps = inversion.invert(before, self.grid, x0, noise, self.skip)
            ends = [inversion.replay(p, self.grid, maps) for p in (after, again)[: 1 + unchanged]]
        else:
            top = inversion.encode(before, process, self.grid, x0, self.skip, self.solver)
            ends = [
                inversion.decode(p, process, self.grid, top, self.skip, self.solver)
                for p in (after, again)[: 1 + unchanged]
            ]
        self.calls.append((before.nfe + after.nfe) * len(x0))
        return ends[0], ends[1] if unchanged else None

    def check(self, source: Tensor | None, target: Tensor | None) -> None:
        """Refuses, before any work, guidance that the model cannot follow.

        Raises:
            UserError: it takes no labels, or was never trained without.
        """
        if self.scales != (1, 1):
            self._predict(source, self.scales[0])
            self._predict(target, self.scales[1])

    def _predict(self, label: Tensor | None, scale: float) -> Predictor:
        denoiser, traits = self.module.model, self.traits
        settings = Sample(guidance={} if scale == 1 else {"cfg": {"scale": scale}})
        return Predictor(
            denoiser,
            derive=traits.derive,
            sigma_min=denoiser.sigma_min,
            sigma_max=denoiser.sigma_max,
            label=label,
            guidance=drawing.build_guidance(settings, self.grid, denoiser, traits, None),
            threshold=self.threshold,
        )


def denoising(module: GenModule, method: Method) -> DenoisingModule:
    """The denoiser of pictures that a run inverts with: its own, or of a `genie` run its base's.

    Raises:
        UserError: it has none, or the method is not for it.
    """
    family = module.recipe.family
    owner = module.base if isinstance(module, GenieModule) else module
    if not isinstance(owner, DenoisingModule):
        raise UserError(f"a run of the family {family} is no denoiser to invert: take a diffusion run")
    if owner.model.process.state_parts != 1:
        raise UserError(f"a picture has no velocity, which the states of the family {family} carry beside it")
    if method == "ddpm-inversion" and owner.likelihood_prior() is not None:
        raise UserError(f"the family {family} adds no Gaussian noise: take --method ddim-inversion")
    if module.spec.kind != "image":
        raise UserError(f"edits are of pictures; this model makes {module.spec.kind} data")
    return owner


def build_inverter(module: GenModule, method: Method, sample: Sample, settings: Settings) -> Inverter:
    """The inverter of a trained run.

    Args:
        sample: steps, grid and threshold; of `ddim-inversion` solver and options.

    Raises:
        UserError: the run is of no denoiser of pictures, the method is not for it, or the settings do not fit.
    """
    owner = denoising(module, method)
    process, info = owner.model.process, SOLVERS.get(SOLVERS.check(sample.solver))
    solver = build(sample.solver, sample.options, process.state_parts)
    if reason := module.usable_solvers()[sample.solver]:
        raise UserError(f"solver={sample.solver}: {reason}", "--set")
    if solver.stochastic:
        raise UserError(f"solver={sample.solver} draws noise, and does not run backwards", "--set")
    if {"derivative", "head"} & set(info.needs):
        drawable.check_derivative(sample, predicted="head" in info.needs)
    own = default_grid(process) if sample.solver == DDIM else info.grid
    options = {**sample.grid_options, "final": "zero" if method == "ddpm-inversion" else "t-min"}
    grid = make_grid(sample.grid or own, sample.steps, process, **options)
    skip = round(SKIPPED[method] * grid.steps) if settings.skip is None else settings.skip
    inversion.check_skip(skip, grid.steps)
    traits = module.sampling_traits() if isinstance(module, GenieModule) else owner.sampling_traits()
    scales = (settings.from_scale, settings.scale)
    return Inverter(owner, traits, method, grid, solver, skip, sample.threshold, scales)


def default_grid(process: Process) -> str:
    """Even times where time is bounded, as published; EDM's levels where it is the noise level itself."""
    return "uniform-t" if process.variance_preserving or process.name == "flow" else "karras"
