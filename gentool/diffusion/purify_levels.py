"""What a user says of a purification, checked: names of methods, and t* as a time or a noise level."""

from __future__ import annotations

import torch

from gentool.diffusion.process import Process
from gentool.diffusion.purify import SIGMA_STAR, Method
from gentool.errors import UserError, did_you_mean

METHODS: dict[str, Method] = {
    "vp-sde": "sde",
    "vp-ode": "ode",
    "sde": "sde",
    "ode": "ode",
    "ancestral": "ancestral",
    "ld-sde": "ld-sde",
}
"""The names a user gives; those with vp- ask for a variance-preserving process."""

MILD, SEVERE = 0.1741428585583207, 1.2341513317962287
"""The noise levels of t* = 0.05 and 0.3 in the paper's process: outside, little is cleaned, or little is left."""


def method_named(name: str | None, process: Process) -> Method:
    """The method of this name; None is `sde`, which is the paper's `vp-sde` on a VP process.

    Raises:
        UserError: unknown, or a VP method on another process.
    """
    if name is None:
        return "sde"
    if name not in METHODS:
        raise UserError(
            f"unknown method {name!r}{did_you_mean(name, list(METHODS))} (there are: {', '.join(METHODS)})",
            "--method",
        )
    if name.startswith("vp-") and not process.variance_preserving:
        raise UserError(
            f"{name} is for variance-preserving processes, and this model's is {process.name}: take "
            f"{METHODS[name]}, the same in the process's own time",
            "--method",
        )
    return METHODS[name]


def level_of(process: Process, t_star: float | None, sigma_star: float | None) -> float:
    """The noise level sigma* from a time of the process or a level; the paper's t* = 0.1 where neither is given.

    Raises:
        UserError: both, or one outside the process.
    """
    if t_star is not None and sigma_star is not None:
        raise UserError("give --t-star or --sigma-star, not both", "--t-star")
    if t_star is not None:
        low, high = process.train_t_min, process.t_max
        if not low < t_star <= high:
            raise UserError(
                f"expected a time in ({low:g}, {high:g}], the range of the process {process.name}, not "
                f"{t_star:g}{_meant(t_star, high)}",
                "--t-star",
            )
        return float(process.sigma(torch.tensor(t_star, dtype=torch.float64)))
    level = SIGMA_STAR if sigma_star is None else sigma_star
    low, high = process.train_sigma_min, process.sigma_max
    if not low < level <= high:
        raise UserError(
            f"expected a noise level in ({low:.4g}, {high:.4g}], the range of the process {process.name}, not "
            f"{level:g}",
            "--sigma-star",
        )
    return level


def _meant(t_star: float, high: float) -> str:
    """A whole number where a fraction is meant: per cent, or steps of a thousand."""
    if high == 1 and 1 < t_star <= 1000:
        fraction = t_star / (100 if t_star <= 30 else 1000)
        return f"; t* is a fraction of the whole time: did you mean --t-star {fraction:g}?"
    return ""


def langevin_time(t_star: float | None, sigma_star: float | None) -> float | None:
    """The whole time of ld-sde, which has no jump; None for the default.

    Raises:
        UserError: a noise level, or a time outside (0, 1].
    """
    if sigma_star is not None:
        raise UserError("ld-sde has no jump to a noise level: give its time by --t-star", "--sigma-star")
    if t_star is not None and not 0 < t_star <= 1:
        raise UserError(f"expected a time in (0, 1], not {t_star:g}{_meant(t_star, 1)}", "--t-star")
    return t_star


def notices(sigma_star: float) -> list[str]:
    """What the user should hear about a level."""
    if sigma_star < MILD:
        return [
            f"warning: sigma* = {sigma_star:.3g} is less noise than t* = 0.05 of the paper (sigma 0.174): it may leave "
            "a perturbation where it is"
        ]
    if sigma_star > SEVERE:
        return [
            f"warning: sigma* = {sigma_star:.3g} is more noise than t* = 0.3 of the paper (sigma 1.23): the picture "
            "may come back as another"
        ]
    return []
