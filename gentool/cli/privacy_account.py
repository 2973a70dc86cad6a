"""`gentool privacy-account`: what noisy steps cost, and how much noise or how many steps a budget allows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gentool.cli.options import optional
from gentool.cli.output import Json, emit, note

if TYPE_CHECKING:
    from gentool.privacy.account import Account
    from gentool.privacy.accountants import Accountant
    from gentool.privacy.mechanisms import Phase

app = typer.Typer(add_completion=False)


def _rate(text: str) -> float:
    """A number, or a fraction: 0.01 or 256/60000."""
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"expected a number or a fraction such as 256/60000, got {text!r}") from None


@app.command()
def privacy_account(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN", help="Run folders: what their ledgers tell, together.", show_default=False
        ),
    ] = None,
    noise_multiplier: Annotated[
        float | None,
        optional(metavar="S", help="Standard deviation of the noise / sensitivity, 0.01 to 1e6."),
    ] = None,
    sample_rate: Annotated[
        float | None,
        optional(
            parser=_rate,
            metavar="Q",
            help="Chance of a record to join a step: expected batch / records, e.g. 256/60000; 1 is all.",
        ),
    ] = None,
    steps: Annotated[int | None, optional(metavar="N", help="Noisy steps, 1 to 1e12.")] = None,
    delta: Annotated[
        float | None,
        optional(metavar="D", help="Between 0 and 1, well below 1/records. Required without RUN."),
    ] = None,
    target_epsilon: Annotated[
        float | None,
        optional(metavar="E", help="Find the noise multiplier, or the steps, that keep to it."),
    ] = None,
    phase: Annotated[
        list[str] | None,
        optional(
            metavar="S,Q,N",
            help="Taken already on the same data: noise multiplier, sample rate, steps. Repeatable.",
        ),
    ] = None,
    accountant: Annotated[
        str | None,
        typer.Option(
            metavar="rdp|pld",
            help="rdp is built in; pld is tighter, and needs the extra pld.",
            show_default="the run's, or rdp",
        ),
    ] = None,
    conversion: Annotated[
        str,
        typer.Option(
            metavar="improved|classic", help="From RDP to epsilon; classic reproduces older papers."
        ),
    ] = "improved",
    plot: Annotated[Path | None, optional(metavar="FILE.png", help="Draw epsilon against steps.")] = None,
    json: Json = False,
) -> None:
    """Account for differential privacy: of runs, or of settings: three questions, told by the flags left out.

    Epsilon of a run: RUN. Several RUNs on the same data, as in a search for hyper-parameters, are added up.

    Epsilon of settings: --noise-multiplier 1.1 --sample-rate 256/60000 --steps 14063 --delta 1e-5

    Noise for a budget: --target-epsilon 3 --sample-rate 256/60000 --steps 14063 --delta 1e-5

    Steps that a budget allows: --target-epsilon 3 --noise-multiplier 1.1 --sample-rate 256/60000 --delta 1e-5

    With RUN, these are about what comes after it on the same data; steps left to it: RUN --target-epsilon 3
    """
    from gentool.errors import UserError
    from gentool.privacy.account import account
    from gentool.privacy.runs import Spending

    spending = Spending.of(runs) if runs else None
    if spending is not None:
        delta = spending.delta if delta is None else delta
        accountant = accountant or spending.accountant
        if target_epsilon is not None and noise_multiplier is sample_rate is steps is None:
            noise_multiplier, sample_rate = spending.goes_on()
    if delta is None:
        raise UserError("--delta is missing: a probability well below 1/records, such as 1e-5")
    if plot is not None and plot.suffix.lower() != ".png":
        raise UserError("expected a name that ends in .png", f"--plot {plot}")
    before = [*(spending.phases if spending else ()), *map(_phase, phase or ())] if runs or phase else None
    judge = _accountant(accountant or "rdp", conversion)
    answer = account(judge, delta, noise_multiplier, sample_rate, steps, target_epsilon, before)
    if spending is not None:
        answer = spending.told(answer)
    if plot is not None:
        _draw(plot, answer)
    document = answer.document() | {
        "plot": None if plot is None else str(plot),
        "runs": [str(run) for run in runs or ()],
    }
    emit(document, answer.text(), json)
    for line in answer.notes:
        note(f"note: {line}")
    if plot is not None:
        note(f"plot: {plot}")


def _phase(text: str) -> Phase:
    """S,Q,N as a phase."""
    from gentool.errors import UserError
    from gentool.privacy.mechanisms import Phase, SampledGaussian

    parts = text.split(",")
    try:
        noise, rate, steps = float(parts[0]), _rate(parts[1]), int(parts[2])
        if len(parts) > 3:
            raise ValueError
    except (ValueError, IndexError, typer.BadParameter):
        message = "expected NOISE_MULTIPLIER,SAMPLE_RATE,STEPS such as 1.1,256/60000,1000"
        raise UserError(message, f"--phase {text}") from None
    try:
        return Phase(SampledGaussian(noise, rate), steps)
    except UserError as error:
        raise UserError(error.message, f"--phase {text}") from None


def _accountant(name: str, conversion: str) -> Accountant:
    from gentool.errors import UserError
    from gentool.privacy.accountants import ACCOUNTANTS
    from gentool.privacy.rdp import RDP

    if conversion not in ("improved", "classic"):
        raise UserError(f"expected improved or classic, got {conversion!r}", "--conversion")
    kind = ACCOUNTANTS.get(name)
    if kind is RDP:
        return RDP("classic" if conversion == "classic" else "improved")
    if conversion != "improved":
        raise UserError(f"--conversion is for the accountant rdp; {name} converts nothing")
    return kind()


def _draw(path: Path, answer: Account) -> None:
    """Both conversions of RDP, and the accountant asked for."""
    from gentool.errors import UserError
    from gentool.privacy.plot import curves, save
    from gentool.privacy.rdp import RDP

    if not answer.phases:
        raise UserError("no step is allowed, so there is nothing to draw", f"--plot {path}")
    judges = dict.fromkeys((RDP(), RDP("classic"), answer.accountant))
    delta = answer.spent.delta
    save(path, curves(answer.phases, delta, tuple(judges)), answer.phases, delta, answer.target_epsilon)
