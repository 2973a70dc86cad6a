"""What a recipe's `privacy:` block comes to: sample rate, noise, delta, and how it was found. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from gentool.errors import BudgetError, UserError
from gentool.privacy.accountants import ACCOUNTANTS, Accountant
from gentool.privacy.calibrate import find_noise_multiplier
from gentool.privacy.mechanisms import MAX_NOISE_MULTIPLIER, Phase, Release, merge
from gentool.privacy.statement import rounded_up
from gentool.recipes.schema import Privacy

MOST_NOISE = 1000.0
"""The largest noise multiplier that a target may ask for: with more, nothing would be learned."""
STEPS = "dp-sgd"
"""What the ledger calls the steps of most private training: sums of clipped gradients of single records."""


@dataclass(frozen=True)
class Plan:
    """A private training, settled before its first step.

    Attributes:
        sample_rate: the chance q of each record to join a step, independently (Poisson).
        records: the public number N of records. expected_batch: q N, what noisy sums are divided by.
        noise_multiplier: standard deviation of the noise / sensitivity; None: no noise (privacy.enabled: false).
        mechanism: what a step releases, by its name in the ledger.
        sensitivity: L2 norm by which one record can move what is released: the clipping norm, in DP-SGD.
        delta: of the guarantee. target_epsilon: None where the noise was given instead.
        steps: the training's last step. first_step: where this plan takes over from another, else 0.
        accountant: whose epsilon counts.
        debug_seed: of reproducible noise, which protects nobody; None: noise is secret.
        notes: what a person should know of it, one sentence each.
    """

    sample_rate: float
    records: int
    expected_batch: float
    noise_multiplier: float | None
    sensitivity: float
    delta: float
    target_epsilon: float | None
    steps: int
    first_step: int = 0
    accountant: str = "rdp"
    debug_seed: int | None = None
    notes: tuple[str, ...] = ()
    mechanism: str = STEPS

    @property
    def release(self) -> Release:
        """What one step releases, as the ledger records it."""
        return Release(self.mechanism, self.noise_multiplier, self.sample_rate, self.sensitivity)

    @property
    def judge(self) -> Accountant:
        return ACCOUNTANTS.get(self.accountant)()

    def not_private(self) -> str | None:
        """Why this protects nobody, or None where it does."""
        if self.noise_multiplier is None:
            return "privacy.enabled is false: no noise was added"
        if self.debug_seed is not None:
            return "privacy.debug_seed is set: whoever knows the seed can subtract the noise"
        return None

    def epsilon(self, before: Sequence[Phase] = ()) -> float:
        """What all planned steps after `before` cost at `delta`; infinite without noise."""
        if self.noise_multiplier is None:
            return math.inf
        return self.reaches(self.noise_multiplier, before)

    def reaches(self, noise_multiplier: float, before: Sequence[Phase] = ()) -> float:
        """`epsilon` with another noise."""
        release = replace(self.release, noise_multiplier=noise_multiplier)
        phases = merge([*before, *release.phases(max(0, self.steps - self.first_step))])
        return self.judge.epsilon(phases, self.delta).epsilon

    def outcome(self, before: Sequence[Phase] = (), count: int | None = None) -> str:
        """For people: what `before` and `count` steps (all, if None) will have cost, or that it protects nobody."""
        reason = self.not_private()
        if reason is not None:
            return f"warning: NOT PRIVATE: {reason}"
        steps = max(0, self.steps - self.first_step) if count is None else count
        spent = self.judge.epsilon(merge([*before, *self.release.phases(steps)]), self.delta)
        return f"epsilon     {rounded_up(spent.epsilon, 4)} at delta {self.delta:g} when it is done"

    def document(self) -> dict[str, Any]:
        """Everything, as JSON takes it; `read` is its inverse."""
        return asdict(self) | {"notes": list(self.notes)}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Plan:
        """The plan of a `document`; keys of later versions are passed over.

        Raises:
            TypeError: a key is missing.
        """
        known = {field.name: document[field.name] for field in fields(cls) if field.name in document}
        return cls(**known | {"notes": tuple(known.get("notes", ()))})

    def settings(self) -> dict[str, Any]:
        """What decides how much noise a step needs; plans that agree in it are the same plan."""
        noise = None if self.target_epsilon is not None else self.noise_multiplier
        outcome = ("first_step", "notes", "sensitivity", "debug_seed")
        kept = {key: value for key, value in asdict(self).items() if key not in outcome}
        return kept | {"noise_multiplier": noise}

    def lines(self) -> list[str]:
        """For people: what will be done, one figure a line."""
        noise = "none" if self.noise_multiplier is None else f"{self.noise_multiplier:.6g}"
        target = "none" if self.target_epsilon is None else f"{self.target_epsilon:g}"
        return [
            f"privacy     target epsilon {target} at delta {self.delta:g} ({self.accountant}), "
            "add or remove one record",
            f"noise       multiplier {noise}, sensitivity {self.sensitivity:g}",
            f"batches     Poisson, sample rate {self.sample_rate:.6g}, {self.expected_batch:.6g} expected "
            f"of {self.records} records, {self.steps} steps",
            *(f"note        {note}" for note in self.notes),
        ]


def plan(
    privacy: Privacy,
    batch_size: int,
    steps: int,
    public_records: int | None,
    before: Sequence[Phase] = (),
    *,
    first_step: int = 0,
    previous: Plan | None = None,
    private_step: tuple[str, float] | None = None,
) -> Plan:
    """Settles how much noise the steps from `first_step` to `steps` take.

    Args:
        privacy: the recipe's block. batch_size: its expected batch. steps: its `trainer.max_steps`.
        public_records: how many records the data set is known to have; `privacy.records` goes before it.
        before: what was released of the same data already; it counts towards a target.
        first_step: the step that training goes on from. previous: the plan of this run so far, if any: it is
            kept where nothing that matters has changed, so that what was started with one noise ends with it.
        private_step: the recipe's `private_step`; None: DP-SGD's.

    Raises:
        UserError: records are not stated, or no reasonable noise meets the target; says what would.
        BudgetError: `before` leaves no room for these steps.
    """
    records = privacy.records or public_records
    if records is None:
        raise UserError(
            "state the public number of training records (the true number is private): nothing is published "
            "of this data set",
            "privacy.records",
        )
    notes = []
    rate = privacy.rate()
    if rate is None:
        rate = min(1.0, batch_size / records)
        if batch_size > records:
            notes.append(
                f"data.batch_size {batch_size} is more than the {records} records: "
                "the sample rate is 1, every step uses all of them"
            )
    mechanism, sensitivity = private_step or (STEPS, privacy.max_grad_norm)
    delta = privacy.delta or _default_delta(records)
    if delta > 1 / records:
        notes.append(
            f"delta {delta:g} is above 1/{records}: it would allow a record to be published outright"
        )
    made = Plan(
        sample_rate=rate,
        records=records,
        expected_batch=rate * records,
        noise_multiplier=privacy.noise_multiplier if privacy.enabled else None,
        sensitivity=sensitivity,
        mechanism=mechanism,
        delta=delta,
        target_epsilon=privacy.epsilon if privacy.enabled else None,
        steps=steps,
        first_step=first_step,
        accountant=privacy.accountant,
        debug_seed=privacy.debug_seed,
    )
    if rate * records != batch_size and privacy.sample_rate is not None:
        notes.append(
            f"privacy.sample_rate makes batches of {made.expected_batch:.6g} records on average, "
            f"where data.batch_size asks for {batch_size}"
        )
    if previous is not None and previous.settings() == made.settings():
        made = replace(made, noise_multiplier=previous.noise_multiplier, first_step=previous.first_step)
    elif made.target_epsilon is not None and first_step < steps:
        made = replace(made, noise_multiplier=_noise(made, made.target_epsilon, before))
    return replace(made, notes=tuple(notes))


def _noise(made: Plan, target: float, before: Sequence[Phase]) -> float:
    """The least noise multiplier that keeps the steps of `made` within `target`.

    Raises:
        UserError, BudgetError: as `plan`.
    """
    try:
        count = made.steps - made.first_step
        noise = find_noise_multiplier(target, made.delta, made.sample_rate, count, before, made.judge)
    except UserError as error:
        if made.reaches(MAX_NOISE_MULTIPLIER, before) <= target:
            raise UserError(error.message, "privacy.epsilon") from None
        noise = math.inf
    if noise <= MOST_NOISE:
        return noise
    if before:
        raise BudgetError(
            f"after what was released before, no noise up to {MOST_NOISE:g} keeps {count} further steps within "
            f"epsilon {target:g} at delta {made.delta:g}: no budget is left for them"
        )
    needed = f"of {noise:.6g}" if noise < math.inf else f"above {MAX_NOISE_MULTIPLIER:g}"
    raise UserError(
        f"{target:g} at delta {made.delta:g} in {count} steps needs a noise multiplier {needed}, and with more "
        f"than {MOST_NOISE:g} nothing is learned; the smallest epsilon that {MOST_NOISE:g} reaches is "
        f"{made.reaches(MOST_NOISE, before):.3g}: allow that, a larger delta, fewer steps or a smaller batch",
        "privacy.epsilon",
    )


def _default_delta(records: int) -> float:
    """1/(10 N), rounded down to a power of ten."""
    return float(f"1e-{len(str(10 * records - 1))}")
