"""One question and its answer: what was asked, what it costs, and the words that go with the figure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from gentool.errors import UserError
from gentool.privacy import statement
from gentool.privacy.accountants import Accountant, Spent
from gentool.privacy.calibrate import find_noise_multiplier, find_steps
from gentool.privacy.mechanisms import Phase, SampledGaussian, merge
from gentool.privacy.statement import rounded_up

if TYPE_CHECKING:
    from gentool.privacy.ledger import Ledger
    from gentool.privacy.plan import Plan

Found = Literal["epsilon", "noise_multiplier", "steps"]


@dataclass(frozen=True)
class Account:
    """An answered question.

    Attributes:
        phases: all that was accounted for, earlier phases first, equal neighbours merged.
        spent: what they cost together.
        accountant: who said so.
        found: which of the figures was the question; the others were given.
        noise_multiplier: of the steps asked about; None where phases that differ in it were all that was
        given. sample_rate: likewise. steps: asked about, without earlier phases; of all phases where these
        were all that was given. target_epsilon: the budget, if one was given.
        not_private: why no epsilon holds (no noise, noise that can be reproduced), or None where it does.
        remarks: what else to know of where the phases come from, one sentence each.
    """

    phases: tuple[Phase, ...]
    spent: Spent
    accountant: Accountant
    found: Found
    noise_multiplier: float | None
    sample_rate: float | None
    steps: int
    target_epsilon: float | None = None
    not_private: str | None = None
    remarks: tuple[str, ...] = ()

    @property
    def epsilon(self) -> float:
        """The guarantee, at `spent.delta`; infinite where there is none."""
        return self.spent.epsilon if self.not_private is None else math.inf

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of these figures, one sentence each."""
        return (*self.remarks, *self.spent.notes, *statement.warnings(self.phases, self.spent.delta))

    def document(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        return {
            "epsilon": self.epsilon if self.not_private is None else None,
            "private": self.not_private is None,
            "not_private": self.not_private,
            "nominal_epsilon": self.spent.epsilon if self.phases else None,
            "delta": self.spent.delta,
            "accountant": self.accountant.name,
            "conversion": self.accountant.conversion,
            "order": self.spent.order,
            "noise_multiplier": self.noise_multiplier,
            "sample_rate": self.sample_rate,
            "steps": self.steps,
            "target_epsilon": self.target_epsilon,
            "found": self.found,
            "phases": [
                {
                    "noise_multiplier": phase.mechanism.noise_multiplier,
                    "sample_rate": phase.mechanism.sample_rate,
                    "steps": phase.steps,
                }
                for phase in self.phases
            ],
            "unit": statement.UNIT,
            "adjacency": statement.ADJACENCY,
            "sampling": statement.sampling(self.phases),
            "noise": statement.NOISE,
            "not_covered": list(statement.NOT_COVERED),
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """For people: the answer, the phases and what they mean; figures are rounded up, as bounds are."""
        lines = []
        if self.found == "noise_multiplier" and self.noise_multiplier is not None:
            lines.append(f"noise multiplier {rounded_up(self.noise_multiplier, 6)}")
        if self.found == "steps":
            lines.append(f"steps {self.steps}")
        how = self.accountant.title + (f", order {self.spent.order:g}" if self.spent.order else "")
        figure = f"epsilon {rounded_up(self.spent.epsilon, 4)} at delta {self.spent.delta:g} ({how})"
        if self.not_private is not None:
            lines.append(f"NOT PRIVATE: {self.not_private}")
            figure = f"the noise that was added would give {figure}, if it were secret and everywhere"
        if self.not_private is None or self.phases:
            lines.append(figure)
        for phase in self.phases:
            noise, rate = phase.mechanism.noise_multiplier, phase.mechanism.sample_rate
            lines.append(f"  noise multiplier {noise!r}, sample rate {rate!r}, steps {phase.steps}")
        words = (
            f"Unit: {statement.UNIT}",
            f"Neighbours: {statement.ADJACENCY}",
            f"Sampling: {statement.sampling(self.phases)}",
            f"Noise: {statement.NOISE}",
            f"Not covered: {'; '.join(statement.NOT_COVERED)}.",
        )
        return "\n".join([*lines, "", *(textwrap.fill(line, 100, subsequent_indent="  ") for line in words)])


def account(
    accountant: Accountant,
    delta: float,
    noise_multiplier: float | None = None,
    sample_rate: float | None = None,
    steps: int | None = None,
    target_epsilon: float | None = None,
    before: Sequence[Phase] | None = None,
) -> Account:
    """Answers the question that the missing setting poses.

    Without a target, epsilon of the settings, or of `before` alone; with one, the noise multiplier or the
    steps that keep to it. What `before` has spent on the same data always counts; None is no such phases.

    Raises:
        UserError: settings missing, too many, or out of range.
        BudgetError: `before` alone exceeds the target.
    """
    alone, before = before is not None, before or ()
    found: Found = "epsilon"
    if target_epsilon is not None:
        if sample_rate is None or (noise_multiplier is None) == (steps is None):
            raise UserError(
                "--target-epsilon takes --sample-rate and one of --steps (to find the noise multiplier) and "
                "--noise-multiplier (to find the steps)"
            )
        if noise_multiplier is None and steps is not None:
            found = "noise_multiplier"
            noise_multiplier = find_noise_multiplier(
                target_epsilon, delta, sample_rate, steps, before, accountant
            )
        elif noise_multiplier is not None:
            found = "steps"
            mechanism = SampledGaussian(noise_multiplier, sample_rate)
            steps = find_steps(target_epsilon, delta, mechanism, before, accountant)
    elif alone and noise_multiplier is sample_rate is steps is None:
        return _of_phases(accountant, delta, merge(before))
    if noise_multiplier is None or sample_rate is None or steps is None:
        given = {"--noise-multiplier": noise_multiplier, "--sample-rate": sample_rate, "--steps": steps}
        missing = ", ".join(flag for flag, value in given.items() if value is None)
        raise UserError(
            f"missing: {missing}. Epsilon takes --noise-multiplier, --sample-rate and --steps; "
            "with --target-epsilon leave out the noise multiplier or the steps, whichever is to be found"
        )
    mechanism = SampledGaussian(noise_multiplier, sample_rate)
    none_left = found == "steps" and steps == 0
    phases = merge(before if none_left else [*before, Phase(mechanism, steps)])
    spent = accountant.epsilon(phases, delta)
    return Account(phases, spent, accountant, found, noise_multiplier, sample_rate, steps, target_epsilon)


def _of_phases(accountant: Accountant, delta: float, phases: tuple[Phase, ...]) -> Account:
    mechanisms = {phase.mechanism for phase in phases}
    only = mechanisms.pop() if len(mechanisms) == 1 else None
    noise, rate = (only.noise_multiplier, only.sample_rate) if only else (None, None)
    steps = sum(phase.steps for phase in phases)
    return Account(phases, accountant.epsilon(phases, delta), accountant, "epsilon", noise, rate, steps)


def account_of(ledger: Ledger, plan: Plan, accountant: Accountant | None = None) -> Account:
    """What a run has spent by its `ledger`, at the delta and by the accountant of its `plan`."""
    found = _of_phases(accountant or plan.judge, plan.delta, ledger.phases())
    return replace(
        found,
        target_epsilon=plan.target_epsilon,
        not_private=ledger.not_private(),
        remarks=(ledger.remark,) if ledger.remark else (),
    )
