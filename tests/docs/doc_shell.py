"""Runs console sessions of the documents: enough of a shell for `NAME=$(...)`, `$NAME`, `> FILE` and `$?`."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from doc_pages import ROOT, Command

from gentool.cli.app import run as run_gentool

_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
_FIGURE = re.compile(r"(?<![\w-])-?\d[\d,.]*(?:e[+-]?\d+)?(?!\w)")


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


Gentool = Callable[[Sequence[str], Path], Ended]


def in_process(arguments: Sequence[str], folder: Path) -> Ended:
    """`gentool ARGUMENTS` here: torch is imported once for all sessions."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_gentool(list(arguments))
    return Ended(code, out.getvalue(), err.getvalue())


@dataclass
class Shell:
    """One session.

    Attributes:
        smaller: recipe name -> overrides put behind it in `gentool train`, so that a run takes seconds.
        shrunk: whether one was: from then on figures are not compared, only the words around them.
    """

    folder: Path
    gentool: Gentool = in_process
    smaller: Mapping[str, Sequence[str]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    shrunk: bool = False

    def run(self, command: Command) -> Ended:
        """Runs one line and checks what the document shows of its output; remembers its exit code."""
        text = command.text
        if taken := re.fullmatch(r"(\w+)=\$\((.*)\)", text):
            ended = self._simple(taken[2])
            self.variables[taken[1]] = ended.out.rstrip("\n")
        elif written := re.fullmatch(r"(.*\S)\s+>\s+(\S+)", text):
            ended = self._simple(written[1])
            (self.folder / written[2]).write_text(ended.out)
        else:
            ended = self._simple(text)
        for line in command.shown:
            assert self.has(ended, line), f"line {command.line}, {text}: never printed {line!r}\n{ended}"
        self.variables["?"] = str(ended.code)
        return ended

    def has(self, ended: Ended, line: str) -> bool:
        """Whether the output holds a line; ` ...` at its end stands for the rest of the line."""
        real = [self._plain(one) for one in (ended.out + "\n" + ended.err).splitlines()]
        if line.endswith(" ..."):
            return any(one.startswith(self._plain(line.removesuffix(" ..."))) for one in real)
        return self._plain(line) in real

    def _plain(self, line: str) -> str:
        line = " ".join(line.split())
        return _FIGURE.sub("#", _ID.sub("<id>", line)) if self.shrunk else line

    def _simple(self, text: str) -> Ended:
        text = re.sub(r"\$(\w+|\?)", lambda m: self.variables[m[1]], text)
        words = shlex.split(text)
        if words[0] == "echo":
            return Ended(0, " ".join(words[1:]) + "\n", "")
        if words[0] == "gentool":
            return self.gentool(self._smaller(words[1:]), self.folder)
        environment = {**os.environ, **self.environment}
        done = subprocess.run(
            ["bash", "-c", text], cwd=self.folder, capture_output=True, text=True, env=environment, timeout=60
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def _smaller(self, words: list[str]) -> list[str]:
        if words[0] != "train" or words[1] not in self.smaller or "--dry-run" in words:
            return words
        self.shrunk = True
        return [
            *words[:2],
            *self.smaller[words[1]],
            *words[2:],
        ]  # the line's own overrides come later and win


def make_targets() -> set[str]:
    """Targets of the Makefile that a person calls."""
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M))
