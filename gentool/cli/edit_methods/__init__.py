"""The methods of `gentool edit`: what each reads of the command line, and what it says when it is done.

A method is a small module here with its `Method`, an entry of `METHODS`, and a task; the command knows nothing else
about it.
"""

from __future__ import annotations

from gentool.cli.edit_methods import clouds, editgan, invert, lace, steer
from gentool.cli.edit_methods.base import SHARED, Given, Method, flag
from gentool.errors import UserError, did_you_mean

METHODS: dict[str, Method] = {
    "steer": steer.STEER,
    "lace": lace.LACE,
    "editgan": editgan.EDITGAN,
    "ddpm-inversion": invert.DDPM,
    "ddim-inversion": invert.DDIM,
    "interpolate": clouds.INTERPOLATE,
    "diffuse-denoise": clouds.DIFFUSE_DENOISE,
}


def choose(name: str, given: Given) -> Method:
    """The method of this name, after checking that it reads what was given.

    Args:
        given: what stands on the command line.

    Raises:
        UserError: unknown, an option that it would ignore, or one that it lacks.
    """
    if name not in METHODS:
        raise UserError(
            f"unknown method {name!r}{did_you_mean(name, list(METHODS))} (there are: {', '.join(METHODS)})",
            "--method",
        )
    method = METHODS[name]
    for key in given:
        if key not in SHARED | method.options:
            readers = [other for other, m in METHODS.items() if key in m.options]
            raise UserError(f"{name} does not read it; it is for {', '.join(readers)}", flag(key))
    for key in method.required:
        if key not in given:
            raise UserError(f"{name} needs it", flag(key))
    if method.source and "source" not in given:
        raise UserError(
            f"{name} edits pictures: name a picture, a folder, an .h5 or .npz, or a data set after RUN"
        )
    if method.source is False and "source" in given:
        raise UserError(
            f"{name} edits samples of the run, not a picture, which would have to be inverted to a latent first: leave "
            f"out {given['source']!r}"
        )
    return method
