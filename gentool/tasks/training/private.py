"""Private training as `gentool train` sees it: the plan, the ledger around the steps, and where the budget ends."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from gentool.errors import BudgetError, CorruptError, UserError
from gentool.privacy.account import account_of
from gentool.privacy.ledger import Ledger
from gentool.privacy.mechanisms import merge
from gentool.privacy.plan import Plan, plan
from gentool.privacy.randomness import Secrets
from gentool.privacy.statement import rounded_up
from gentool.recipes.resolve import Resolved
from gentool.recipes.schema import Privacy, Recipe
from gentool.runs.folder import RunFolder
from gentool.tasks.model.base import ledger_to_inherit
from gentool.training.module import GenModule
from gentool.training.private.setup import build_engine, check, physical_batch
from gentool.training.private.step import OwnStep, PrivateStep, SecretStep
from gentool.training.watching import Say

MARKS = 20
"""How often at most, over a training, an accountant that is not instant is asked what has been spent so far."""


@dataclass
class PrivateTraining:
    """One life of a private run.

    Attributes:
        plan: that it follows. stop: the step it may train to: `trainer.max_steps`, or where the budget ends.
        total: releases that the ledger will state when the training gets there.
        ledger: on rank 0, which alone writes it.
    """

    privacy: Privacy
    plan: Plan
    stop: int
    total: int
    ledger: Ledger | None
    _told: tuple[int, float] = (0, 0.0)  # releases, and the epsilon of them

    def set_up(self, module: GenModule, device: torch.device, rank: int, world: int, say: Say) -> SecretStep:
        """Gives the module its step; of DP-SGD the engine is tried on the device first."""
        module.to(device)
        own = (self.plan, Secrets(self.plan.debug_seed), self.privacy.secure_noise, self.cover, rank, world)
        if module.own_private_step:
            module.private = OwnStep(*own)
            return module.private
        engine = build_engine(module, self.privacy, say)
        at_once, each = physical_batch(module, engine, self.privacy)
        say(
            f"engine      {type(engine).__name__.lower()}, {at_once} records at once "
            f"({each / 2**20:.3g} MiB each)"
        )
        module.private = PrivateStep(*own, engine=engine, physical_batch=at_once)
        return module.private

    def cover(self, step: int) -> None:
        """Writes the step to the ledger, if it is not in it yet, before it is taken."""
        if self.ledger is not None:
            self.ledger.cover(self.plan.release, step, self.stop)

    @property
    def head(self) -> str | None:
        """What a checkpoint keeps of the ledger."""
        return None if self.ledger is None else self.ledger.head

    def ended(self, step: int, asked: int, say: Say) -> None:
        """The loop has stopped before `step`: states it, and says so where the budget was why."""
        if self.ledger is None:
            return
        self.ledger.settle(step)
        if step == self.stop < asked:
            say(
                f"warning: stopped at step {step} of {asked}: one more would exceed epsilon "
                f"{self.plan.target_epsilon:g}; the state is saved"
            )

    @property
    def epsilon(self) -> float | None:
        """What the run has spent by its ledger; None where nothing is private."""
        if self.ledger is None:
            return None
        account = account_of(self.ledger, self.plan)
        return None if account.not_private else account.epsilon

    def epsilon_so_far(self) -> float | None:
        """`epsilon` for a line of status: never less, and where the accountant takes seconds, what it will be at most
        a twentieth of the training later."""
        if self.plan.judge.instant or self.ledger is None or self.ledger.not_private():
            return self.epsilon
        taken = self.ledger.steps
        if taken > self._told[0]:
            ahead = min(math.ceil(self.total / MARKS), self.total - taken)
            phases = merge([*self.ledger.phases(), *self.plan.release.phases(ahead)])
            self._told = taken + ahead, self.plan.judge.epsilon(phases, self.plan.delta).epsilon
        return self._told[1]


def prepare(
    run: RunFolder,
    resolved: Resolved,
    module: GenModule,
    state: dict[str, Any] | None,
    *,
    base: RunFolder | None = None,
    allow_change: bool,
    main: bool,
    say: Say,
) -> PrivateTraining | None:
    """Opens the ledger, settles the plan and tells it; None for a recipe without `privacy:`.

    Args:
        state: the checkpoint that training goes on from. base: the run that the model starts from, where there is one.
        allow_change: calibrate the noise of the steps to come anew where more of them are asked for.

    Raises:
        UserError: the model or the checkpoint does not go with private training, or no noise meets the target.
        CorruptError: the ledger is missing, damaged or cut back.
        BudgetError: not one more step is within the target.
    """
    recipe, done = resolved.recipe, 0 if state is None else int(state["step"])
    check_checkpoint(run, recipe, state)
    if recipe.privacy is None:
        return None
    inherited = None if base is None else ledger_to_inherit(base, recipe.privacy)
    check(module)
    if state is None:
        module.fit_privately()
    header = {"recipe": resolved.name, "data": recipe.data.name}
    ledger = Ledger.start(run.ledger, header, writes=main)
    if state is not None and not ledger.holds(state["ledger"]):
        raise CorruptError("the ledger was cut back, or is another run's: restore it", str(run.ledger))
    if inherited is not None:
        ledger.inherit(inherited)
    made = _plan(recipe, ledger, done)
    before = ledger.plan
    if before is not None and before.noise_multiplier != made.noise_multiplier and not allow_change:
        made = replace(before, steps=made.steps)
    steps = recipe.trainer.max_steps
    left = None if done >= steps else ledger.remaining(made, enough=steps - done)
    stop = steps if left is None else min(steps, done + left)
    if done >= stop and done < steps:
        raise BudgetError(
            f"one more step than the {done} taken would exceed epsilon {made.target_epsilon:g} at delta "
            f"{made.delta:g}: the run is complete as it is, or goes on with more noise (--allow-change)",
            str(run.path),
        )
    if done < steps:
        if before is not None and before.release != made.release:
            say("warning: the noise or the sample rate changed: the steps to come are a new phase")
        ledger.adopt(made)
        if inherited is not None:
            cost = made.judge.epsilon(inherited.phases(), made.delta).epsilon
            say(f"base        epsilon {rounded_up(cost, 4)} is spent on it, and counts")
        for line in (*made.lines(), made.outcome(ledger.phases(), stop - done)):
            say(line)
    total = ledger.steps + max(0, stop - done)
    return PrivateTraining(recipe.privacy, made, stop, total, ledger if main else None)


def check_checkpoint(run: RunFolder, recipe: Recipe, state: dict[str, Any] | None) -> None:
    """A checkpoint is gone on with as it was trained: with its ledger, or without privacy.

    A ledger without a checkpoint too is of a private training, which ended before its first one.

    Raises:
        UserError, CorruptError: as `prepare`.
    """
    was_private = state is not None and state.get("ledger") is not None
    if recipe.privacy is None and (was_private or run.ledger.is_file()):
        raise UserError(
            "the run was trained privately, and a step without privacy would void what its ledger states: bring "
            "the privacy: block back, or start a new run",
            str(run.path),
        )
    if state is not None and recipe.privacy is not None and not was_private:
        raise UserError(
            "its checkpoint was trained without privacy and has no ledger: what it holds of the data cannot be "
            "accounted for any more; start a new run",
            str(run.path),
        )
    if was_private and not run.ledger.is_file():
        raise CorruptError(
            "the ledger is missing: what was spent is not known, and training cannot go on; restore it",
            str(run.ledger),
        )


def _plan(recipe: Recipe, ledger: Ledger, first_step: int) -> Plan:
    assert recipe.privacy is not None
    return plan(
        recipe.privacy,
        recipe.data.batch_size,
        recipe.trainer.max_steps,
        recipe.data.public_records(),
        ledger.phases(),
        first_step=first_step,
        previous=ledger.plan,
        private_step=recipe.private_step,
    )
