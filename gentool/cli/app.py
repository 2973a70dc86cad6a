"""The command line: a table of commands, each imported when it is called and not before.

`gentool --help` answers from the table alone, so it costs no torch, no schema and no command's imports. A
command is a module here with `app = typer.Typer(add_completion=False)`, and one line in `COMMANDS`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from gentool import __version__
from gentool.cli.errors import guarded

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("gentool.cli.train", "Train a model from a recipe."),
    "sample": ("gentool.cli.sample", "Draw samples from a trained run."),
    "evaluate": ("gentool.cli.evaluate", "Judge a run or a samples file."),
    "purify": ("gentool.cli.purify", "Clean pictures with a diffusion run."),
    "edit": ("gentool.cli.edit", "Edit pictures, and show them before and after."),
    "mesh": ("gentool.cli.mesh", "Turn clouds of points into closed meshes."),
    "export": ("gentool.cli.export", "Write what can be published of a run."),
    "privacy-account": ("gentool.cli.privacy_account", "Account for differential privacy."),
    "recipes": ("gentool.cli.recipes", "List, show, copy and check recipes."),
    "families": ("gentool.cli.families", "List the model families and their recipes' keys."),
    "data": ("gentool.cli.data", "List, fetch, pack, inspect and check data sets."),
    "solvers": ("gentool.cli.solvers", "List the solvers that sampling can use."),
    "runs": ("gentool.cli.runs", "List run folders, and show what one holds."),
    "slurm": ("gentool.cli.slurm", "Print a training as jobs for a Slurm cluster."),
}
"""Command -> (module, one line of help), in the order that `gentool --help` shows."""


class LazyCommand(TyperCommand):
    """A command's name and line of help; the command itself is imported when it is to read its arguments."""

    def __init__(self, name: str, module: str, help: str) -> None:
        super().__init__(name=name, help=help)
        self.module = module

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        command = get_command(import_module(self.module).app)
        command.name = self.name
        return command.make_context(info_name, args, parent=parent, **extra)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"gentool {__version__}")
        raise typer.Exit


def _gentool(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train, sample and evaluate generative models from recipes.

    Every command takes --json: one JSON document on standard output.

    Exit codes: 0 done, 1 failure, 2 wrong input, 3 privacy budget, 4 corrupt, 75 preempted, 130 interrupted.
    """


def build() -> TyperGroup:
    """The whole command, its subcommands not imported yet."""
    app = typer.Typer(
        name="gentool",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_gentool)
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for name, (module, line) in COMMANDS.items():
        group.add_command(LazyCommand(name, module, line))
    return group


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code."""
    command = build()
    if "_GENTOOL_COMPLETE" in os.environ:  # the shell asks for completions
        command.main(prog_name="gentool")

    def work() -> None:
        with command.make_context("gentool", list(arguments)) as context:
            command.invoke(context)

    return guarded(work, as_json="--json" in arguments)
