"""What sampling refuses of a model before any work is done, and what it tells of the rest."""

from __future__ import annotations

from gentool.diffusion.denoiser import Denoiser
from gentool.diffusion.grids import Grid
from gentool.diffusion.guidance import catalog as rules
from gentool.diffusion.process import Process
from gentool.diffusion.solvers.catalog import SOLVERS
from gentool.diffusion.solvers.core import Solver
from gentool.diffusion.solvers.core import build as build_solver
from gentool.errors import UserError
from gentool.recipes.schema import Sample
from gentool.training.drawing import Traits, build_grid, build_guidance, means
from gentool.training.sampling import Guide


def check_guide(guide: Guide, grid: Grid, traits: Traits) -> None:
    """The classifier must know the classes, and the states that sampling passes through.

    Raises:
        UserError: other shape, other classes, or noise levels that it was not trained on.
    """
    if guide.shape != traits.shape:
        theirs, ours = ("x".join(map(str, shape)) for shape in (guide.shape, traits.shape))
        raise UserError(f"--classifier: it reads samples of shape {theirs}, this model makes {ours}")
    if traits.classes not in (0, guide.classes):
        raise UserError(
            f"--classifier: it knows {guide.classes} classes, this model was trained on {traits.classes}"
        )
    low, high = float(grid.sigma[grid.sigma > 0].min()), float(grid.sigma.max())
    # a thousandth: the same level reached by way of a time differs in its last digits
    if guide.sigma_min > low * 1.001 or guide.sigma_max < high / 1.001:
        raise UserError(
            f"--classifier: it was trained on noise levels sigma from {guide.sigma_min:.4g} to "
            f"{guide.sigma_max:.4g}, and sampling passes from {high:.4g} to {low:.4g}; train a classifier "
            "whose model.noise.process is this model's"
        )


def check(settings: Sample, denoiser: Denoiser, traits: Traits, guide: Guide | None = None) -> list[str]:
    """Refuses what this model cannot do before any work is done; returns what the user should hear.

    Raises:
        UserError: unknown solver, option, grid or rule, one that the model lacks the means for, or a guide
            that does not fit the model.
    """
    info = SOLVERS.get(SOLVERS.check(settings.solver))
    if reason := info.lacking(means(denoiser, traits)):
        raise UserError(f"{settings.solver}: {reason}", "sample.solver")
    solver = build_solver(settings.solver, settings.options, denoiser.process.state_parts)
    grid = build_grid(settings, denoiser.process)
    if "variance" in info.needs:
        check_variance(settings)
    if {"derivative", "head"} & set(info.needs):
        check_derivative(settings, predicted="head" in info.needs)
    if (
        settings.afs
        and grid.steps == 1
        and not settings.denoise
        and (info.nfe == "N" or grid.final == "zero")
    ):
        raise UserError("the only step would be the analytic one: no network call at all", "sample.afs")
    if settings.denoise and grid.final == "zero":
        raise UserError("sample.denoise: this grid ends at sigma = 0, where the state is x0 already")
    if solver.adaptive and (settings.afs or settings.time_shift):
        raise UserError(
            f"sample: {settings.solver} chooses its own steps; afs and time_shift have no place there"
        )
    if denoiser.process.state_parts > 1 and (settings.afs or settings.time_shift):
        raise UserError(
            "sample.afs and time_shift are for states of data alone; this model's have a velocity"
        )
    notes = [*grid.notes, *plan_notes(settings, solver, grid, denoiser.process)]
    build_guidance(settings, grid, denoiser, traits, guide)
    if guide is not None:
        if denoiser.process.state_parts > 1:
            raise UserError(
                "--classifier: it reads noisy data, and this model's states have a velocity beside them"
            )
        check_guide(guide, grid, traits)
    if settings.threshold != "none" and not traits.images:
        raise UserError("sample.threshold is for images, whose values lie in [-1, 1]")
    clipped = settings.threshold != "none" or not traits.images
    return [*notes, *rules.notices(rules.check(settings.guidance), clipped=clipped)]


def plan_notes(settings: Sample, solver: Solver, grid: Grid, process: Process) -> tuple[str, ...]:
    """What the user should hear of the steps that the solver will take.

    Raises:
        UserError: a solver with steps of its own, and nothing for it to go through.
    """
    if not solver.adaptive:
        return solver.prepare(grid, process).notes
    if grid.steps == 1 and grid.final == "zero":
        raise UserError(
            f"{settings.solver} goes from the grid's first level to its last above sigma = 0, which with one step are "
            "the same: take 2",
            "sample.steps",
        )
    return ()


def check_variance(settings: Sample) -> None:
    """Refuses what changes predictions and leaves their variances behind.

    Raises:
        UserError: guidance, or a time shift.
    """
    for key in ("guidance", "time_shift"):
        if getattr(settings, key):
            raise UserError(
                f"{settings.solver} takes the variances of the network's own predictions, which {key} changes; take "
                "ddpm, whose variance is small or large",
                f"sample.{key}",
            )


def check_derivative(settings: Sample, *, predicted: bool) -> None:
    """Refuses what has no derivative, or none that a head's can be combined into.

    Raises:
        UserError: a time shift; for a predicted derivative, thresholding or a rule that is not linear.
    """
    if settings.time_shift is not None:
        raise UserError(
            f"{settings.solver} takes derivatives, and a shifted time has none", "sample.time_shift"
        )
    if not predicted:
        return
    if settings.threshold != "none":
        raise UserError(
            f"{settings.solver}'s head knows the derivative of the prediction as it is; ttm2 differentiates the "
            "clipped one",
            "sample.threshold",
        )
    for name, rule in rules.check(settings.guidance).items():
        if not (isinstance(rule, rules.CfgOptions) and rule.rescale == 0):
            what = f"{name} with rescale" if isinstance(rule, rules.CfgOptions) else name
            raise UserError(
                f"{what}: {settings.solver} mixes the head's derivatives as the rule mixes predictions, which only "
                "plain cfg allows; ttm2 differentiates any rule",
                "sample.guidance",
            )
