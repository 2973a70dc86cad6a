"""The constants of LACE's energies and samplers, as `gentool edit --method lace --set` takes them. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gentool.recipes.schema import Positive, Strict

Above0 = Annotated[float, Field(gt=0)]
NotBelow0 = Annotated[float, Field(ge=0)]


class Constants(Strict):
    truncation: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of the generator, for what classifiers read and pictures show; null: that of the labelled latents."""
    logit_temperature: Above0 = 1.0
    """Divides the logits of classes, before they are normalised."""
    code_temperature: bool = False
    """Divide the asked class's logit alone, as the published code does: no probability, and below 1 it never stops."""
    gamma: Above0 = 20.0
    """Weight of the left operand of `or`."""
    push: NotBelow0 = 0.1
    """Size of what `not` pushes with: its operand's l weighs min(push/|l|, 1)."""
    led_by: Literal["all", "last"] = "all"
    """Of several formulas: edit k is led by all up to the k-th, or by the k-th alone, the others' readings held."""
    reweight: bool = False
    """As the published code's switch, which its scripts leave off: the formula of an edit counts ten times where it
    asks for numbers alone, and those of the edits before it a tenth."""
    t_end: Annotated[float, Field(ge=0, lt=1)] = 1e-3
    """Where the ODE ends; it begins at 1."""
    rate: Above0 = 1e-2
    """Of a Langevin step."""
    steps: Positive = 100
    """Langevin steps."""
    pc_steps: Positive = 1000
    """Steps of the predictor-corrector."""
    corrections: Annotated[int, Field(ge=0)] = 2
    """Langevin steps after each of them."""
    snr: Above0 = 0.16
    """Their signal-to-noise ratio."""
    stale_score: bool = False
    """Take the predictor's score for the corrections too, as the published code does, in place of a fresh one."""
