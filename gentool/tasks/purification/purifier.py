"""The purifier of a trained run, as the user asks for it (DiffPure, arXiv 2205.07460)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gentool.diffusion.purify import Purifier
from gentool.diffusion.purify_levels import langevin_time, level_of, method_named
from gentool.errors import UserError
from gentool.tasks.model.labels import label_cycle
from gentool.training.denoising import DenoisingModule
from gentool.training.module import GenModule

STEPS, LANGEVIN_STEPS = 100, 10
"""As published at t* = 0.1: steps of 1e-3, and of 1e-2 for ld-sde."""


@dataclass(frozen=True)
class Settings:
    """How to purify, as the user says it; None is the default.

    Attributes:
        t_star: in the process's own time; ld-sde: its whole time.
        sigma_star: the same as a noise level.
        label: the class a conditional model is told, by number or name; None: its null label.
    """

    method: str | None = None
    t_star: float | None = None
    sigma_star: float | None = None
    steps: int | None = None
    rounds: int = 1
    label: str | None = None


def build_purifier(module: GenModule, settings: Settings) -> Purifier:
    """The purifier of a trained run, on the module's device.

    Raises:
        UserError: the run is of no single denoiser of pictures, or the settings do not fit it.
    """
    if not isinstance(module, DenoisingModule):
        raise UserError(why_no_denoiser(module))
    family, denoiser = module.recipe.family, module.model
    if module.spec.kind != "image":
        raise UserError(f"purification is for pictures; this model makes {module.spec.kind} data")
    if denoiser.process.state_parts != 1:
        raise UserError(
            f"purification adds noise to pictures; the family {family} adds it to their velocities"
        )
    if module.likelihood_prior() is not None:
        raise UserError(f"purification adds Gaussian noise, which the family {family} does not remove")
    process, method = denoiser.process, method_named(settings.method, denoiser.process)
    if method == "ld-sde":
        own = Purifier(denoiser, process, method)
        found = langevin_time(settings.t_star, settings.sigma_star)
        langevin = own.langevin if found is None else replace(own.langevin, time=found)
        chosen = replace(own, langevin=langevin)
        steps = settings.steps or max(1, round(LANGEVIN_STEPS * langevin.time / 0.1))
    else:
        chosen = Purifier(denoiser, process, method, level_of(process, settings.t_star, settings.sigma_star))
        steps = settings.steps or STEPS
    return replace(chosen, steps=steps, rounds=settings.rounds, label=_label(module, settings.label))


def why_no_denoiser(module: GenModule) -> str:
    """Why a run that is not one denoiser cannot purify, in a line."""
    family, instead = module.recipe.family, "give a diffusion run (edm, dpdm)"
    if module.spec.kind != "image":
        return f"purification is for pictures; this run of {family} is of {module.spec.kind} data: {instead}"
    if type(module).judge is not GenModule.judge:
        return f"a run of the family {family} is no denoiser: it can be --classifier; as RUN {instead}"
    if isinstance(module.base, DenoisingModule):
        return (
            f"a run of the family {family} is no denoiser but a faster solver of one: give the run it stands on, "
            "RUN/base"
        )
    return f"a run of the family {family} is no denoiser: it makes pictures from latents alone; {instead}"


def _label(module: DenoisingModule, asked: str | None) -> int | None:
    if asked is not None:
        labels = label_cycle(asked, module, None)
        if labels is None or len(labels) != 1:
            raise UserError(f"--label {asked}: one class at most is told to the model")
        return labels[0]
    if module.classes == 0:
        return None
    if module.recipe.model.label_dropout == 0:
        raise UserError(
            "this model was never trained without labels (model.label_dropout: 0), and a picture to purify has none: "
            "give --label, or train with label dropout"
        )
    return module.classes
