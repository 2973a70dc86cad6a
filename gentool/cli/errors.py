"""The one place where exceptions end: a message or a JSON document, and an exit code."""

from __future__ import annotations

import errno
import os
import select
import sys
import traceback
import warnings
from collections.abc import Callable
from io import TextIOWrapper

import typer

from gentool.cli.output import print_json
from gentool.errors import GentoolError, RecipeError, RunInterrupted, UserError

BROKEN_PIPE = 141
"""The shell's code for a command whose reader went away (128 + SIGPIPE): `gentool recipes list | head -1`."""

# Typer used the package click once and has its own now: BadParameter(UsageError(ClickException)) in both.
_ClickException = typer.BadParameter.__mro__[2]
_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def guarded(work: Callable[[], None], as_json: bool) -> int:
    """Run `work`; every way it can end becomes an exit code, and an error is told in the form asked for."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # one that cannot encode a sign gets its escape instead
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        try:
            work()
            sys.stdout.flush()
        except typer.Exit as end:
            sys.stdout.flush()
            return end.exit_code
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, BrokenPipeError) and _reader_gone():
                raise
            return _tell(error, as_json)
    except BrokenPipeError:
        # Python flushes standard output once more at exit; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return 0


def _reader_gone() -> bool:
    """Whether nobody reads standard output any more. Other pipes may break too: no reason for silence."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _show_warning(message: Warning | str, *where: object) -> None:
    """A warning is for the person at the command line, who has no use for the line of code it came from."""
    print(f"warning: {message}", file=sys.stderr)


def _tell(error: BaseException, as_json: bool) -> int:
    if isinstance(error, _ClickException) and not as_json:
        error.show()  # type: ignore[attr-defined]
        return int(error.exit_code)  # type: ignore[attr-defined]
    known = _known(error)
    if known is None:
        traceback.print_exception(error, file=sys.stderr)
        known = GentoolError(
            f"{type(error).__name__}: {error} (a defect of gentool: please report it with the traceback)"
        )
        known.kind = "defect"
    problems = known.problems if isinstance(known, RecipeError) else ()
    lines = [str(problem) for problem in problems]
    if as_json:
        where = problems[0].where if problems else known.where
        details = [{"where": p.where, "key": p.key, "message": p.message} for p in problems]
        document = {"kind": known.kind, "message": "\n".join(lines) or known.message, "where": where}
        print_json({"error": document | ({"problems": details} if details else {})})
        sys.stdout.flush()
    else:
        print("\n".join(lines) or f"gentool: {known}", file=sys.stderr)
    return known.exit_code


def _known(error: BaseException) -> GentoolError | None:
    """The error as one of gentool's own; None for a defect."""
    if isinstance(error, GentoolError):
        return error
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return RunInterrupted("interrupted")
    if isinstance(error, _ClickException):
        usage = UserError(error.format_message())  # type: ignore[attr-defined]
        usage.kind = "usage"
        return usage
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # torch's is a RuntimeError
        return GentoolError(
            "the machine ran out of memory: make batch_size or the network smaller, or (training) raise "
            "trainer.accumulate; `gentool train --dry-run` estimates what a recipe needs"
        )
    if isinstance(error, OSError) and error.errno in _MACHINE:
        return GentoolError(os.strerror(error.errno), where=error.filename)
    return None
