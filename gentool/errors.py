"""Every way gentool ends on purpose, with its exit code (a public contract, see docs/exit-codes.md).

Raise one of these with a message that says what was expected and what to do; the command line prints it
(or the JSON document `{"error": {"kind", "message", "where"}}`) and exits with `exit_code`. Any other exception
that reaches the command line is a defect of gentool and exits with 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches


class GentoolError(Exception):
    """A failure of the machine that gentool could not survive (exit code 1); base of all others."""

    exit_code = 1
    kind = "failure"

    def __init__(self, message: str, where: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class UserError(GentoolError):
    """The user's input was wrong."""

    exit_code = 2
    kind = "input"


class BudgetError(GentoolError):
    """The privacy budget forbids what was asked."""

    exit_code = 3
    kind = "privacy-budget"


class CorruptError(GentoolError):
    """Data or a checkpoint is corrupt."""

    exit_code = 4
    kind = "corrupt"


class PreemptedError(GentoolError):
    """Terminated by a scheduler with the state saved; the same command with `--resume auto` goes on."""

    exit_code = 75
    kind = "preempted"


class RunInterrupted(GentoolError):
    """Interrupted from the keyboard with the state saved."""

    exit_code = 130
    kind = "interrupted"


@dataclass(frozen=True)
class Problem:
    """One fault of a recipe: `where` is `file:line:column` (or `override 'k=v'`), `key` the dotted key."""

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.where} {self.key}: {self.message}" if self.key else f"{self.where}: {self.message}"


class RecipeError(UserError):
    """All faults of one recipe at once."""

    kind = "recipe"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, problems)))


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """`"; did you mean X?"` for the nearest known name, or `""`."""
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
