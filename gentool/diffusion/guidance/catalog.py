"""Guidance rules by name: their options, their cost, what they need; no torch.

Two ways to name rules: the recipe form `{cfg: {scale: 2.0, interval: [0.3, 5]}}` and the command line's
`cfg=2.0`, which `parse` turns into the recipe form. `check` turns the recipe form into a `Spec`, which
`build.build` takes.

The scale is `w` in every rule: plain + (w - 1)(plain - worse). So 1 is the plain conditional prediction, and
0 is the worse one (the unconditional, the perturbed). Papers that write 1 + s have w = 1 + s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from gentool.errors import Problem, RecipeError, UserError, did_you_mean
from gentool.recipes.schema import Fraction, Strict

Need = Literal["labels", "label-dropout", "self-attention", "classifier"]

LARGE_SCALE = 15.0
"""Above this, pixels leave [-1, 1] unless predictions are thresholded."""


class Options(Strict):
    """What every rule has."""

    scale: float
    """Guidance scale w; 1 is the plain prediction of the labelled model."""


class ClassifierFreeOptions(Options):
    """What the rules have that compare the labelled with the unlabelled prediction."""

    scale: float = 2.0
    """Guidance scale w: 0 unconditional, 1 plain conditional, above 1 guided."""
    interval: Annotated[tuple[float, float], Field(strict=False)] | None = None
    """Guide only while sigma is in [lo, hi]; elsewhere w = 1 at one network call (arXiv:2404.07724)."""

    @field_validator("interval")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 <= value[0] < value[1]:
            raise ValueError("expected [lo, hi] in units of sigma with 0 <= lo < hi")
        return value


class CfgOptions(ClassifierFreeOptions):
    rescale: Fraction = 0.0
    """Bring the guided standard deviation back to the plain one by this share (arXiv:2305.08891: 0.7)."""


class ApgOptions(ClassifierFreeOptions):
    scale: float = 4.0
    """Guidance scale w: 1 plain conditional; stands larger values than cfg."""
    eta: Fraction = 0.0
    """Share kept of the part that is parallel to the prediction, the one that saturates."""
    momentum: Annotated[float, Field(gt=-1, lt=1)] = 0.0
    """Weight of past differences; negative values (the paper's -0.75 to -0.5) push away from them."""
    radius: Annotated[float, Field(gt=0)] | None = None
    """Clip the difference's norm to this: the paper's r."""
    radius_rms: Annotated[float, Field(gt=0)] | None = None
    """The same per value, r / sqrt(values of a sample): carries over between resolutions."""

    @model_validator(mode="after")
    def _one_radius(self) -> ApgOptions:
        if self.radius is not None and self.radius_rms is not None:
            raise ValueError("radius and radius_rms are two units of one bound; keep one")
        return self


class AdaptiveOptions(ClassifierFreeOptions):
    threshold: float = 0.99
    """Stop guiding a sample once the cosine of its two x0 predictions is above this."""


class ClassifierOptions(Options):
    scale: float = 1.0
    """Weight of the classifier's gradient: 0 ignores it, 1 is Bayes' rule, above 1 sharper."""
    form: Literal["score", "mean"] = "score"
    """score: the prediction moves, with any solver; mean: the mean of each ancestral step moves (ddpm, or ddim with
    eta)."""


class PagOptions(Options):
    scale: float = 4.0
    """Guidance scale w = 1 + s of the paper: 1 is the plain prediction."""
    layers: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Self-attention modules to perturb, by name; none: all of them."""


@dataclass(frozen=True)
class GuidanceInfo:
    """A rule of the catalogue.

    Attributes:
        options: the schema of its options.
        nfe: network calls per prediction, at most, when it is the only rule.
        needs: what the model must have.
        source: the paper.
    """

    name: str
    summary: str
    options: type[Options]
    nfe: int
    needs: tuple[Need, ...]
    source: str


CATALOG: dict[str, GuidanceInfo] = {
    info.name: info
    for info in (
        GuidanceInfo(
            "cfg",
            "classifier-free guidance: away from the unlabelled prediction",
            CfgOptions,
            2,
            ("labels", "label-dropout"),
            "Ho & Salimans 2022, arXiv:2207.12598",
        ),
        GuidanceInfo(
            "apg",
            "adaptive projected guidance: cfg without the part that oversaturates",
            ApgOptions,
            2,
            ("labels", "label-dropout"),
            "Sadat et al. 2024, arXiv:2410.02416",
        ),
        GuidanceInfo(
            "adaptive",
            "cfg that stops, sample by sample, once both predictions agree",
            AdaptiveOptions,
            2,
            ("labels", "label-dropout"),
            "Castillo et al. 2023, arXiv:2312.12487",
        ),
        GuidanceInfo(
            "pag",
            "perturbed-attention guidance: away from the network with its self-attention switched off",
            PagOptions,
            2,
            ("self-attention",),
            "Ahn et al. 2024, arXiv:2403.17377",
        ),
        GuidanceInfo(
            "classifier",
            "gradient of a noise-aware classifier",
            ClassifierOptions,
            1,
            ("classifier",),
            "Dhariwal & Nichol 2021, arXiv:2105.05233",
        ),
    )
}

Spec = dict[str, Options]
"""Rules in order, with checked options."""


def parse(*texts: str) -> dict[str, dict[str, Any]]:
    """The recipe form of command-line rules `NAME[=SCALE]`; `none` alone is no guidance at all.

    >>> parse("cfg=2.0", "pag")
    {'cfg': {'scale': 2.0}, 'pag': {}}

    Raises:
        UserError: unknown name, a scale that is no finite number, or a rule named twice.
    """
    if texts == ("none",):
        return {}
    rules: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, scale = (part.strip() for part in text.partition("="))
        if name not in CATALOG:
            raise UserError(_unknown(name), "--guidance")
        if name in rules:
            raise UserError(f"{name} is named twice", "--guidance")
        rules[name] = {"scale": _number(text, scale)} if equals else {}
    return rules


def check(rules: Mapping[str, Mapping[str, Any]], where: str = "sample.guidance") -> Spec:
    """Options checked, defaults filled in; `where` is what the messages call the place the rules came from.

    Raises:
        RecipeError: every fault at once: unknown rules and keys (with the nearest known one), wrong values,
            two rules that both steer by the null label.
    """
    spec: Spec = {}
    problems: list[Problem] = []
    for name, options in rules.items():
        if name not in CATALOG:
            problems.append(Problem(where, name, _unknown(name)))
            continue
        schema = CATALOG[name].options
        try:
            spec[name] = schema.model_validate(options)
        except ValidationError as error:
            problems += [Problem(where, *fault) for fault in _faults(name, schema, error)]
    free = [name for name, options in spec.items() if isinstance(options, ClassifierFreeOptions)]
    if len(free) > 1:
        problems.append(
            Problem(where, free[1], f"{' and '.join(free)} steer by the null label alike; keep one")
        )
    if problems:
        raise RecipeError(problems)
    return spec


def notices(spec: Spec, *, clipped: bool) -> list[str]:
    """What to tell the user about rules that are valid but may surprise.

    Args:
        clipped: predictions are thresholded, or the data have no range to leave (anything but images).
    """
    lines = []
    for name, options in spec.items():
        w = options.scale
        if name == "classifier":
            if w == 0:
                lines.append("classifier: scale 0 ignores the classifier")
        elif w == 1:
            lines.append(f"{name}: scale 1 is the plain prediction, at one network call")
        elif name == "cfg" and w == 0:
            lines.append("cfg: scale 0 is unconditional, at one network call while it is the only rule")
        if w < 0:
            lines.append(f"{name}: negative scale {w:g} guides away from the label")
        if w > LARGE_SCALE and not clipped:
            lines.append(
                f"{name}: scale {w:g} drives pixels out of [-1, 1]; add threshold dynamic, take apg, "
                "or lower the scale"
            )
    return lines


def _unknown(name: str) -> str:
    return f"unknown guidance {name!r}{did_you_mean(name, list(CATALOG))} (there are: {', '.join(CATALOG)})"


def _number(text: str, scale: str) -> float:
    try:
        value = float(scale)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{text!r}: expected NAME or NAME=SCALE with a number, such as cfg=2.0", "--guidance")
    return value


def _faults(name: str, schema: type[Options], error: ValidationError) -> Iterator[tuple[str, str]]:
    """(dotted key, message) of every fault that pydantic found."""
    for fault in error.errors(include_url=False):
        key = ".".join([name, *map(str, fault["loc"])])
        if fault["type"] == "extra_forbidden":
            known = list(schema.model_fields)
            last = str(fault["loc"][-1])
            yield key, f"unknown key{did_you_mean(last, known)} (there are: {', '.join(known)})"
        else:
            yield key, fault["msg"].removeprefix("Value error, ")
